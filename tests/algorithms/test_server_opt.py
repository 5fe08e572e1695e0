"""Server optimisers: by hand, against torch's SGD and against numbers that Flower 1.41 printed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedmq import build, tensors
from fedmq.algorithms.server_opt import BY_NAME, ServerOptimizer, adagrad, adam, avgm, nesterov, none, yogi
from fedmq.errors import LocalProtocolError

PARAMS = {"w": np.array([1.0, -2.0, 0.5])}
DELTAS = [np.array([0.1, -0.2, 0.3]), np.array([0.05, 0.1, -0.4]), np.array([-0.02, 0.3, 0.01])]
FACTORIES = pytest.mark.parametrize("make", BY_NAME.values(), ids=BY_NAME)
Factory = Callable[..., ServerOptimizer]


def _path(rule: ServerOptimizer, deltas: list[np.ndarray] = DELTAS) -> list[np.ndarray]:
    """Where the parameters are after each step."""
    params, state, path = tensors.astype(PARAMS, np.float64), rule.init(PARAMS), []
    for delta in deltas:
        stepped, state = rule.step(params, {"w": delta}, state)
        params = dict(stepped)
        path.append(params["w"])
    return path


@pytest.mark.parametrize(("lr", "expected"), [(1.0, [1.1, -2.2, 0.8]), (0.5, [1.05, -2.1, 0.65])])
def test_none_by_hand(lr: float, expected: list[float]) -> None:
    assert _path(none(lr=lr))[0] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.9])
def test_momentum_is_that_of_torch(accelerated: bool, momentum: float) -> None:
    weight = torch.nn.Parameter(torch.tensor(PARAMS["w"]))
    oracle = torch.optim.SGD([weight], lr=0.7, momentum=momentum, nesterov=accelerated and momentum > 0)
    expected = []
    for delta in DELTAS:
        weight.grad = torch.tensor(-delta)
        oracle.step()
        expected.append(weight.detach().numpy().copy())
    rule = (nesterov if accelerated else avgm)(lr=0.7, momentum=momentum)
    assert np.array(_path(rule)) == pytest.approx(np.array(expected), rel=1e-14)


def test_the_default_of_avgm_goes_as_far_as_plain_averaging() -> None:
    step = np.array([1.0, -3.0, 0.0])
    path = _path(avgm(), [step] * 200)
    assert path[-1] - path[-2] == pytest.approx(step, rel=1e-8)


FLOWER = {  # flwr 1.41.0: eta 0.1, beta_1 0.9, beta_2 0.99, tau 1e-3; Adagrad without momentum
    "adam": (adam, [1.1907718332130113, -2.058207811292024, 0.5434229032615252]),
    "yogi": (yogi, [1.2916240816968798, -2.0701342898909796, 0.5502994902922992]),
    "adagrad": (adagrad, [1.125879474039166, -1.975015579531623, 0.5218230644236687]),
}


@pytest.mark.parametrize(("make", "expected"), FLOWER.values(), ids=FLOWER)
def test_flowers_convention_gives_flowers_numbers(make: Factory, expected: list[float]) -> None:
    assert _path(make(lr=0.1, convention="flower"))[-1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["adagrad", "adam", "yogi"])
def test_the_papers_convention_by_hand(name: str) -> None:
    """Algorithm 2 of Reddi et al., entry by entry in plain floats."""
    lr, beta1, beta2, tau = 0.05, 0.8, 0.95, 1e-2
    for entry in range(3):
        x, m, v = float(PARAMS["w"][entry]), 0.0, tau**2
        for delta in DELTAS:
            d = float(delta[entry])
            m = beta1 * m + (1 - beta1) * d
            sign = (v > d * d) - (v < d * d)
            v = {
                "adagrad": v + d * d,
                "adam": beta2 * v + (1 - beta2) * d * d,
                "yogi": v - (1 - beta2) * d * d * sign,
            }[name]
            x += lr * m / (v**0.5 + tau)
        given = {"lr": lr, "beta1": beta1, "tau": tau} | ({} if name == "adagrad" else {"beta2": beta2})
        assert _path(BY_NAME[name](**given))[-1][entry] == pytest.approx(x, rel=1e-12)


@FACTORIES
def test_a_step_leaves_its_arguments_alone(make: Factory) -> None:
    rule = make()
    state = rule.init(PARAMS)
    before = [tensors.digest(each) for each in (PARAMS, {"w": DELTAS[0]}, state)]
    params, after = rule.step(PARAMS, {"w": DELTAS[0]}, state)
    rule.step(params, {"w": DELTAS[1]}, after)
    assert [tensors.digest(each) for each in (PARAMS, {"w": DELTAS[0]}, state)] == before


@FACTORIES
def test_all_that_is_remembered_is_in_the_state(make: Factory) -> None:
    """A run that is resumed has a new rule and the old state."""
    params, state = PARAMS, make().init(PARAMS)
    for delta in DELTAS:
        stepped, state = make().step(params, {"w": delta}, state)
        params = dict(stepped)
    assert params["w"].tolist() == _path(make())[-1].tolist()
    assert all(value.dtype == np.float64 for value in (*params.values(), *state.values()))


@FACTORIES
def test_no_movement_where_nobody_moved(make: Factory) -> None:
    assert _path(make(), [np.zeros(3)] * 2)[-1].tolist() == PARAMS["w"].tolist()


@FACTORIES
def test_another_shape_or_name_is_refused(make: Factory) -> None:
    rule = make()
    with pytest.raises(LocalProtocolError, match="w: shape"):
        rule.step(PARAMS, {"w": np.zeros(1)}, rule.init(PARAMS))
    with pytest.raises(LocalProtocolError, match="names"):
        rule.step(PARAMS, {"v": np.zeros(3)}, rule.init(PARAMS))


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [(name, {"lr": bad}, "need lr > 0") for name in BY_NAME for bad in (0.0, -1.0, float("nan"), float("inf"), "x")]
    + [("avgm", {"momentum": 1.0}, r"momentum in \[0, 1\), got 1.0"), ("nesterov", {"momentum": -0.1}, "momentum in")]
    + [(name, {"beta1": 1.0}, "beta1 in") for name in ("adagrad", "adam", "yogi")]
    + [(name, {"beta2": 1.5}, "beta2 in") for name in ("adam", "yogi")]
    + [(name, {"tau": 0.0}, "tau > 0") for name in ("adagrad", "adam", "yogi")]
    + [(name, {"convention": "x"}, "paper or flower, got 'x'") for name in ("adagrad", "adam", "yogi")],
)
def test_an_option_without_sense_is_refused(name: str, given: dict[str, float | str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build.server_optimizer(name, **given)
