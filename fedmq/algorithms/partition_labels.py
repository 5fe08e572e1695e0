"""The partition of clients that differ in the classes of their rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmq import rng
from fedmq.algorithms.options import one_of, require, whole
from fedmq.algorithms.partition_shares import Partitioner, Rows, Share, Wanted, cut_equally, joined, label_tv
from fedmq.errors import DataError

#: Draws before it is given up that each client gets its fewest rows.
_DRAWS = 11
#: Clients x classes: 8 bytes each, twice.
_MAX_CELLS = 20_000_000


def dirichlet(
    law: str = "per_class",
    alpha: float = 0.5,
    label: str = "brand",
    length_bins: float | None = None,
    min_rows: float = 1,
) -> Partitioner:
    """Shares of classes by a Dirichlet distribution: the smaller alpha, the more do clients differ. All rows are used.

    Two laws go by this name. With K clients and classes of shares p_c:

        "per_class":  q_c ~ Dir(alpha, ..., alpha) of dimension K: client k gets the share q_ck of class c.
        "per_client": q_k ~ Dir(alpha p): client k gets an equal number of rows, drawn without replacement, of class c
            with probability q_kc. Of a class that is used up nobody gets more: the others take its place.

    Under "per_class" sizes differ too, and it is drawn again until each client has `min_rows`. The same alpha does
    not mean the same under both, nor with other classes: compare `Share.label_tv`, the distance that came of it.
    A client's validation rows have the same shares.

    Args:
      law: "per_class" or "per_client".
      alpha: > 0.
      label: what a row's class is: "brand", "author", or its "length"; rows where that is unknown are one class.
      length_bins: classes of label "length", equally many training rows in each; None = 10.
      min_rows: the fewest training rows of a client, at least 1.

    Reference:
      "per_class": Yurochkin et al. 2019 (arXiv 1905.12022), section 4; the same shares as the DirichletPartitioner of
      flwr-datasets for the same generator, which however rounds in favour of the last client. "per_client": Hsu, Qi,
      Brown 2019 (arXiv 1909.06335), section 3.1.

    Example:
      >>> rows = Rows(np.zeros(8), {"brand": ["A", "B"] * 4})
      >>> shares = dirichlet(alpha=0.1).deal(rows, rows, Wanted(num_clients=2, seed=1))
      >>> sorted(sum((share.train.tolist() for share in shares), []))
      [0, 1, 2, 3, 4, 5, 6, 7]
    """
    one_of(("per_class", "per_client"), law=law)
    one_of(("brand", "author", "length"), label=label)
    require("> 0", alpha=alpha)
    if length_bins is not None and label != "length":
        raise ValueError(f'length_bins is of label "length", not of "{label}"')
    bins = 10 if length_bins is None else whole("length_bins", length_bins, least=2)
    fewest = whole("min_rows", min_rows, least=1)

    def deal(train: Rows, val: Rows, wanted: Wanted) -> list[Share]:
        classes, held_classes = _by_length(train, val, bins) if label == "length" else _by_label(train, val, label)
        number = int(classes.max(initial=0)) + 1
        if number * wanted.num_clients > _MAX_CELLS:
            raise DataError(
                f"dirichlet over {number} classes (label {label}) and {wanted.num_clients} clients is too much: choose "
                f"another label, or lower federated.num_clients to at most {_MAX_CELLS // number}"
            )
        too_few = (
            f"{len(classes)} training rows of {number} classes (label {label}) do not give {wanted.num_clients} clients"
            f" {fewest} rows each under dirichlet {law} with alpha {alpha:g}"
        )
        ways = "lower federated.num_clients, or min_rows of federated.distribution_options, or raise its alpha"
        if len(classes) < wanted.num_clients * fewest:
            raise DataError(f"{too_few}: {ways}")
        generator, chance = (rng.derive(wanted.seed, purpose) for purpose in ("partition", "partition rounding"))
        # Shuffled, so that of a class it is chance who gets which row, and not the order of the file.
        orders = [rng.derive(wanted.seed, "partition order").permutation(len(c)) for c in (classes, held_classes)]
        shuffled = [c[order] for c, order in zip((classes, held_classes), orders, strict=True)]
        if law == "per_class":
            for _ in range(_DRAWS):
                shares = generator.dirichlet(np.full(wanted.num_clients, alpha), size=number)
                parts, held = (split_classes(c, shares, chance) for c in shuffled)
                if min(map(len, parts)) >= fewest:
                    break
            else:
                raise DataError(f"{too_few}, drawn {_DRAWS} times: {ways}")
        else:
            wishes = generator.dirichlet(alpha * np.bincount(classes) / len(classes), size=wanted.num_clients)
            parts, held = (draw_classes(c, wishes, generator) for c in shuffled)
        parts, held = ([order[rows] for rows in split] for order, split in zip(orders, (parts, held), strict=True))
        distances = label_tv(classes, parts)
        return [share._replace(label_tv=tv) for share, tv in zip(joined(parts, held), distances, strict=True)]

    return Partitioner(deal, needs=() if label == "length" else (label,))


def split_classes(classes: np.ndarray, shares: np.ndarray, chance: np.random.Generator | None) -> list[np.ndarray]:
    """Positions for each client: of the n_c rows of class c, in their order, on average shares[c, k] n_c.

    With s_ck the shares up to client k, class c is cut at floor(s_ck n_c + u_c): whole rows, and unbiased for a
    uniform u_c. With u_c = 0 the last client would get half a row of every class too many.

    Args:
      classes: shape (num_rows,), integers from 0; one beyond `shares` is dealt in equal shares.
      shares: shape (num_classes, num_clients), each row sums to 1.
      chance: draws u; None takes 0.

    Example:
      >>> [rows.tolist() for rows in split_classes(np.array([0, 1, 0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]]), None)]
      [[0, 2, 1], [3]]
    """
    number, clients = shares.shape
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    order = np.argsort(classes, kind="stable")
    found, starts = np.unique(classes[order], return_index=True)
    for c, rows in zip(found, np.split(order, starts[1:]), strict=True):
        marks = np.cumsum(shares[c] if c < number else np.full(clients, 1 / clients)) * len(rows)
        marks += 0.0 if chance is None else chance.random()
        for part, piece in zip(parts, np.split(rows, marks.astype(int)[:-1]), strict=True):
            part.append(piece)
    return [np.concatenate([np.empty(0, np.int64), *part]) for part in parts]


def draw_classes(classes: np.ndarray, wishes: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Positions for each client, equally many: classes drawn by its wishes from what is there, without replacement.

    All draw at once; where a class does not suffice, chance decides between those that drew it, and they draw
    again among the classes that are left.

    Args:
      classes: shape (num_rows,), integers from 0.
      wishes: shape (num_clients, num_classes), each row sums to 1.
      generator: of this draw.
    """
    clients, number = wishes.shape
    stock = np.bincount(classes, minlength=number)
    if len(stock) > number:
        wishes = np.pad(wishes, ((0, 0), (0, len(stock) - number)))
    need = np.array([len(part) for part in cut_equally(classes, clients)])
    taken = np.zeros((clients, len(stock)), np.int64)
    while need.any():
        open_wishes = np.where(stock > 0, wishes, 0.0)
        nothing = open_wishes.sum(axis=1) == 0
        open_wishes[nothing] = stock
        asked = np.stack([generator.multinomial(n, w / w.sum()) for n, w in zip(need, open_wishes, strict=True)])
        for c in np.flatnonzero(asked.sum(axis=0) > stock):
            asked[:, c] = generator.multivariate_hypergeometric(asked[:, c], stock[c])
        taken, stock, need = taken + asked, stock - asked.sum(axis=0), need - asked.sum(axis=1)
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes, minlength=len(stock)))[:-1]
    pieces = [np.split(rows, np.cumsum(taken[:, c])[:-1]) for c, rows in enumerate(np.split(order, ends))]
    return [np.concatenate([piece[k] for piece in pieces]) for k in range(clients)]


def _by_label(train: Rows, val: Rows, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the classes in the order of their names; those of no training row come after the others."""
    known = {name: i for i, name in enumerate(sorted(set(train.labels[label])))}
    for name in sorted(set(val.labels[label]) - known.keys()):
        known[name] = len(known)
    return _numbers(train.labels[label], known), _numbers(val.labels[label], known)


def _numbers(names: Sequence[str], known: dict[str, int]) -> np.ndarray:
    return np.array([known[name] for name in names], np.int64)


def _by_length(train: Rows, val: Rows, bins: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.quantile(train.lengths, np.arange(1, bins) / bins)
    classes, held = (np.searchsorted(edges, rows.lengths, side="left") for rows in (train, val))
    # Many texts of one length leave a bin empty: numbers without gaps, as a class without rows is none.
    present = np.unique(classes)
    return np.searchsorted(present, classes), np.searchsorted(present, held)
