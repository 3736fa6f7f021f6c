"""Self-supervised denoising of reconstructions: the MS-D network trained the Noise2Inverse way."""
