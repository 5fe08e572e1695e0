"""FedSA-LoRA, by algebra: A is averaged, B is nobody else's, both together are a client's own model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.aggregate import Update
from fedmq.algorithms.lora_aggregate import fedsa
from fedmq.algorithms.lora_aggregate import local as alone
from fedmq.algorithms.lora_core import of_factors
from fedmq.algorithms.personal import OWN, kept_part, personal, shared_part
from fedmq.tensors import NamedTensors, add, digest, subtract

SHAPES = {"m.0": (9, 7), "m.1": (5, 8)}


def adapter(rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = {"m.0.bias": rng.normal(size=3)}
    for module, (d_in, d_out) in SHAPES.items():
        found[f"{module}.lora_A.weight"] = rng.normal(size=(2, d_in))
        found[f"{module}.lora_B.weight"] = rng.normal(size=(d_out, 2))
    return found


def one_round(params: NamedTensors, clients: list[tuple[float, NamedTensors]]) -> dict[str, NamedTensors]:
    """Each client's own model afterwards: weights and trained adapters in, by the names k of clients."""
    rule, shared = fedsa(), of_factors(params, "A")
    state = rule.init(shared)
    for k, (weight, local) in enumerate(clients):
        state = rule.fold(state, Update(f"{k}", 0, 1, 1, subtract(of_factors(local, "A"), shared)), weight)
    after = {**params, **add(shared, rule.finish(state))}
    return {f"{k}": personal(after, kept_part(local, "A")) for k, (_, local) in enumerate(clients)}


@given(seed=st.integers(0, 999), count=st.integers(1, 5))
def test_a_is_the_mean_and_b_is_as_its_client_left_it(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    params, clients = adapter(rng), [(float(rng.uniform(0.5, 3)), adapter(rng)) for _ in range(count)]
    shares = np.array([weight for weight, _ in clients]) / sum(weight for weight, _ in clients)
    models = one_round(params, clients)
    for k, (_, local) in enumerate(clients):
        for name, value in models[f"{k}"].items():
            if name.endswith("lora_B.weight"):
                assert value is local[name]
            else:
                mean = sum(p * x[name] for p, (_, x) in zip(shares, clients, strict=True))
                np.testing.assert_allclose(value, mean, atol=1e-12)
    backwards = one_round(params, clients[::-1])
    for k in range(count):
        for name, value in models[f"{k}"].items():
            np.testing.assert_allclose(backwards[f"{count - 1 - k}"][name], value, atol=1e-12)


def test_one_client_gets_back_what_it_trained() -> None:
    rng = np.random.default_rng(1)
    params, local = adapter(rng), adapter(rng)
    (mine,) = one_round(params, [(2.0, local)]).values()
    for name, value in local.items():
        np.testing.assert_allclose(mine[name], value, atol=1e-12)


def test_the_parts_are_the_whole() -> None:
    whole = adapter(np.random.default_rng(2))
    for shared, own in (("A", "lora_B"), ("B", "lora_A")):
        kept = kept_part(whole, shared)
        assert {name.removeprefix(OWN) for name in kept} == {name for name in whole if own in name}
        assert digest(personal({**whole, **of_factors(whole, shared)}, kept)) == digest(whole)
    assert digest(of_factors(whole, "both")) == digest(whole) and kept_part(whole, "both") == {}


def test_who_has_nothing_of_its_own_begins_with_what_is_there() -> None:
    whole = adapter(np.random.default_rng(3))
    assert digest(personal(whole, {"optimizer:exp_avg:m.0.lora_B.weight": np.ones(1)})) == digest(whole)


def test_a_b_is_refused() -> None:
    with pytest.raises(ValueError, match=r"m\.0\.lora_B\.weight is its client's own, and should not be here"):
        fedsa().init(adapter(np.random.default_rng(4)))


def test_alone_nothing_is_sent_and_all_is_kept() -> None:
    whole = adapter(np.random.default_rng(5))
    assert shared_part(whole, "none") == {}
    assert digest(personal(adapter(np.random.default_rng(6)), kept_part(whole, "none"))) == digest(whole)
    rule = alone()
    state = rule.fold(rule.init({}), Update("0", 0, 1, 1, {}), 2.0)
    assert rule.finish(state) == {}
    with pytest.raises(ValueError, match="its client's own"):
        alone().init(whole)
