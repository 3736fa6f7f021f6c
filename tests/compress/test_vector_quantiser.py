from __future__ import annotations

import torch

from quietbeam.compress.vector_quantiser import VectorQuantiser, nearest


def test_entries_that_nothing_is_near_to_are_set_anew() -> None:
    torch.manual_seed(0)
    quantiser, latents = VectorQuantiser(16, 2), 100 + torch.randn(4, 2, 8, 8)
    quantiser(latents)
    vectors = latents.movedim(1, -1).reshape(-1, 2)
    assert all(bool((entry == vectors).all(1).any()) for entry in quantiser.codebook)
    with torch.no_grad():
        quantiser.codebook[3] = -1e3
    for _ in range(200):
        quantiser(latents)
    assert float(quantiser.codebook[3].detach().min()) > 90


def test_evaluation_moves_no_entry() -> None:
    quantiser = VectorQuantiser(16, 2).eval()
    before = quantiser.codebook.detach().clone()
    quantiser(torch.full((1, 2, 4, 4), 50.0))
    assert torch.equal(quantiser.codebook, before)
    assert float(quantiser.share.sum()) == 0


def test_gradients_pass_the_quantiser_unchanged() -> None:
    torch.manual_seed(0)
    quantiser, latents = VectorQuantiser(4, 2).eval(), torch.randn(1, 2, 3, 3, requires_grad=True)
    factors = torch.randn(1, 2, 3, 3)
    replaced, _ = quantiser(latents)
    (replaced * factors).sum().backward()
    torch.testing.assert_close(latents.grad, factors)
    flat = replaced.detach().movedim(1, -1).reshape(-1, 2)
    assert all(bool(torch.isclose(vector, quantiser.codebook, atol=1e-6).all(1).any()) for vector in flat)


def test_the_nearest_entry_is_that_of_all_distances() -> None:
    torch.manual_seed(0)
    vectors, codebook = torch.randn(50, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    distances = (vectors[:, None] - codebook).norm(dim=2)
    assert torch.equal(nearest(vectors, codebook), distances.argmin(1))
