"""Sphinx settings of the documentation."""

from importlib.metadata import version as installed_version

project = "quietbeam"
author = "The quietbeam developers"
copyright = "the quietbeam developers"
version = release = installed_version("quietbeam")

extensions = ["myst_parser"]
myst_heading_anchors = 3

html_theme = "alabaster"
html_theme_options = {
    "description": "Denoised volumes out of synchrotron tomography scans, without clean reference data",
    "fixed_sidebar": True,
    "page_width": "62rem",
    "font_family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif",
    "head_font_family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif",
}
html_show_sourcelink = False
html_show_copyright = False
