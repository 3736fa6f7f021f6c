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


def write_settings_page(app: object) -> None:
    """Write reference/settings.md from the settings' own descriptions, so that it is never out of date."""
    from pathlib import Path

    from quietbeam.beamline.settings import ReductionSettings

    lines = [
        "# Settings",
        "",
        "Every setting of `quietbeam reduce`, by stage; see {doc}`../how-to/tune-settings` for how to give them.",
    ]
    for stage, stage_field in ReductionSettings.model_fields.items():
        model = type(stage_field.default)
        lines += ["", f"## {stage}", "", (model.__doc__ or "").split("\n")[0], ""]
        lines += ["| setting | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            lines.append(f"| `{stage}.{name}` | `{field.default}` | {field.description} |")
    page = Path(__file__).parent / "reference" / "settings.md"
    content = "\n".join(lines) + "\n"
    if not page.exists() or page.read_text() != content:
        page.write_text(content)


def setup(app: object) -> None:
    """Let Sphinx call `write_settings_page` before it reads the pages."""
    app.connect("builder-inited", write_settings_page)  # type: ignore[attr-defined]
