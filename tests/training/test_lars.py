"""LARS: the two published rules in closed form, momentum, what is left alone, state that a checkpoint can hold."""

from __future__ import annotations

import math

import pytest
import torch

from maskmill.training.lars import LARS


def parameter(values: list[list[float]] | list[float], gradient: list[list[float]] | list[float]) -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.tensor(values))
    made.grad = torch.tensor(gradient)
    return made


def test_lars_divides_by_the_norm_of_gradient_and_decay_together() -> None:
    weight = parameter([[3.0, 0.0], [0.0, 4.0]], [[0.0, 1.0], [0.0, 0.0]])  # norm 5
    LARS([weight], lr=2.0, weight_decay=0.1, trust=0.01).step()
    moved = torch.tensor([[0.3, 1.0], [0.0, 0.4]])  # g + 0.1 w, of norm sqrt(1.25)
    expected = torch.tensor([[3.0, 0.0], [0.0, 4.0]]) - 2 * 0.01 * 5 / math.sqrt(1.25) * moved
    torch.testing.assert_close(weight.detach(), expected)


def test_larc_divides_by_the_sum_of_both_norms() -> None:
    weight = parameter([[3.0, 0.0], [0.0, 4.0]], [[0.0, 1.0], [0.0, 0.0]])
    LARS([weight], lr=2.0, weight_decay=0.1, trust=0.01, form="larc").step()
    moved = torch.tensor([[0.3, 1.0], [0.0, 0.4]])
    expected = torch.tensor([[3.0, 0.0], [0.0, 4.0]]) - 2 * 0.01 * 5 / (1 + 0.5) * moved
    torch.testing.assert_close(weight.detach(), expected)


def test_biases_are_scaled_by_larc_only() -> None:
    for form, expected in (
        ("lars", [3 - 0.5, 4.0]),
        ("larc", [3 - 0.5 * (1 + 0.3) / 1.5 * 0.05, 4 - 0.05 * 0.2 / 1.5]),
    ):
        bias = parameter([3.0, 4.0], [1.0, 0.0])
        LARS([bias], lr=0.5, weight_decay=0.1, trust=0.01, form=form).step()  # type: ignore[arg-type]
        torch.testing.assert_close(bias.detach(), torch.tensor(expected))


@pytest.mark.parametrize("form", ["lars", "larc"])
def test_weights_of_zero_follow_the_bare_gradient_and_leave_zero(form: str) -> None:
    weight = parameter([[0.0, 0.0]], [[1.0, -2.0]])
    LARS([weight], lr=0.5, weight_decay=0.1, form=form).step()  # type: ignore[arg-type]
    assert weight.detach().tolist() == [[-0.5, 1.0]]


def test_larc_does_not_decay_what_has_no_gradient() -> None:
    """As prototypes that are held: a gradient of zero moves nothing."""
    weight = parameter([[3.0, 4.0]], [[0.0, 0.0]])
    LARS([weight], lr=4.8, weight_decay=0.1, form="larc").step()
    assert weight.detach().tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("form", ["lars", "larc"])
def test_the_length_of_a_step_depends_on_the_weights_only(form: str) -> None:
    steps = []
    for size in (1e-4, 1.0, 1e4):
        weight = parameter([[3.0, 4.0]], [[size, size]])
        LARS([weight], lr=1.0, trust=0.01, form=form).step()  # type: ignore[arg-type]
        steps.append(float((weight.detach() - torch.tensor([[3.0, 4.0]])).norm()))
    assert steps == pytest.approx([0.05] * 3, rel=2e-3 if form == "larc" else 1e-5)  # apex adds 1e-8 to the norm


def test_momentum_adds_up_the_scaled_gradients() -> None:
    """Three steps of a scaled gradient whose rate is zero, so that the weights stay: 1, 1 + m, 1 + m + m^2 times it."""
    weight = parameter([[3.0, 4.0]], [[0.0, 2.0]])
    optimiser = LARS([weight], lr=0.0, momentum=0.5, trust=0.1)
    for factor in (1.0, 1.5, 1.75):
        optimiser.step()
        torch.testing.assert_close(optimiser.state[weight]["momentum_buffer"], factor * torch.tensor([[0.0, 0.5]]))


def test_groups_have_settings_of_their_own_and_what_has_no_gradient_stays() -> None:
    first, second, third = (
        parameter([[2.0]], [[1.0]]),
        parameter([[2.0]], [[1.0]]),
        torch.nn.Parameter(torch.ones(1, 1)),
    )
    LARS([{"params": [first, third], "lr": 1.0}, {"params": [second], "trust": 0.1}], lr=0.5, trust=0.01).step()
    assert float(first.detach()) == pytest.approx(2 - 0.02)
    assert float(second.detach()) == pytest.approx(2 - 0.5 * 0.2)
    assert float(third.detach()) == 1


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 3, 3)

    def train(weight: torch.nn.Parameter, optimiser: LARS, steps: range) -> torch.Tensor:
        for step in steps:
            weight.grad = gradients[step]
            optimiser.step()
        return weight.detach()

    start = torch.randn(3, 3)
    whole = torch.nn.Parameter(start.clone())
    expected = train(whole, LARS([whole], lr=0.1), range(4))
    half = torch.nn.Parameter(start.clone())
    before = LARS([half], lr=0.1)
    train(half, before, range(2))
    after = LARS([half], lr=0.1)
    after.load_state_dict(before.state_dict())
    assert torch.equal(train(half, after, range(2, 4)), expected)
