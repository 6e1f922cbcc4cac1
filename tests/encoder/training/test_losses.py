import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from encoder.training.losses import (
    class_loss,
    contrastive_loss,
    jaccard,
    label_weights,
    multilabel_loss,
    prefix_contrastive_loss,
)

NAN = float("nan")


def _batch(seed: int, rows: int = 6, labels: int = 3) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    embeddings = torch.nn.functional.normalize(torch.randn(rows, 8, generator=chance), dim=1)
    targets = torch.randint(0, 3, (rows, labels), generator=chance).float()
    return embeddings, torch.where(targets == 2, NAN, targets)


def _contrastive_by_hand(embeddings: Tensor, targets: Tensor, temperature: float) -> float:
    losses = []
    for i, anchor in enumerate(embeddings):
        others = [j for j in range(len(embeddings)) if j != i]
        shares = [math.exp(float(anchor @ embeddings[j]) / temperature) for j in others]
        weights = [_jaccard_by_hand(targets[i], targets[j]) for j in others]
        if sum(weights) > 0:
            logs = [math.log(share / sum(shares)) for share in shares]
            losses.append(-sum(w * one for w, one in zip(weights, logs, strict=True)) / sum(weights))
    return sum(losses) / len(losses) if losses else 0.0


def _jaccard_by_hand(first: Tensor, second: Tensor) -> float:
    known = [k for k in range(len(first)) if not (math.isnan(first[k]) or math.isnan(second[k]))]
    either = [k for k in known if first[k] == 1 or second[k] == 1]
    both = [k for k in known if first[k] == 1 and second[k] == 1]
    if not known:
        return 0.0
    return len(both) / len(either) if either else 1.0


@given(st.integers(0, 10_000))
def test_the_neighbour_term_is_what_its_formula_says(seed: int) -> None:
    embeddings, targets = _batch(seed)

    loss = contrastive_loss(embeddings, targets, 0.2)

    assert float(loss) == pytest.approx(_contrastive_by_hand(embeddings, targets, 0.2), abs=1e-4)


@given(st.integers(0, 10_000))
def test_jaccard_is_symmetric_and_within_bounds(seed: int) -> None:
    shares = jaccard(_batch(seed)[1])

    assert torch.equal(shares, shares.T)
    assert bool(((shares >= 0) & (shares <= 1)).all())


def test_an_unknown_label_has_no_say_and_no_gradient() -> None:
    logits = torch.tensor([[2.0, -1.0]], requires_grad=True)
    targets = torch.tensor([[1.0, NAN]])

    loss = multilabel_loss(logits, targets, torch.ones(2))
    loss.backward()

    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-2)))
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0


def test_a_batch_without_any_known_label_costs_nothing() -> None:
    logits = torch.randn(3, 2)
    nothing = torch.full((3, 2), NAN)
    embeddings = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)

    assert float(multilabel_loss(logits, nothing, torch.ones(2))) == 0
    assert float(class_loss(logits, nothing, torch.ones(2))) == 0
    assert float(contrastive_loss(embeddings, nothing, 0.1)) == 0


def test_smoothing_draws_the_best_logit_in_from_infinity() -> None:
    targets = torch.ones(1, 1)

    certain, likely = (
        float(multilabel_loss(torch.tensor([[logit]]), targets, torch.ones(1), smoothing=0.1))
        for logit in (20.0, math.log(0.95 / 0.05))
    )

    assert likely < certain


def test_balanced_weights_make_rare_labels_count_as_much_as_common_ones() -> None:
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0], [NAN, NAN]])

    assert label_weights(targets, "balanced", exclusive=False).tolist() == pytest.approx([3.0, 1 / 3])
    assert label_weights(targets, "none", exclusive=False).tolist() == [1.0, 1.0]


def test_a_label_without_positives_gets_a_finite_weight() -> None:
    weights = label_weights(torch.zeros(5, 1), "balanced", exclusive=False)

    assert bool(torch.isfinite(weights).all())


def test_smoothing_moves_a_binary_target_half_its_share_towards_the_other() -> None:
    logits, targets = torch.tensor([[0.7], [-1.2]]), torch.tensor([[1.0], [0.0]])

    loss = multilabel_loss(logits, targets, torch.ones(1), smoothing=0.1)

    chances = [1 / (1 + math.exp(-one)) for one in (0.7, -1.2)]
    by_hand = [-(y * math.log(p) + (1 - y) * math.log(1 - p)) for y, p in zip((0.95, 0.05), chances, strict=True)]
    assert float(loss) == pytest.approx(sum(by_hand) / 2)


def test_smoothing_spreads_its_share_of_a_class_over_all_classes() -> None:
    logits, targets = torch.tensor([[0.7, -1.2, 0.1]]), torch.tensor([[0.0, 1.0, 0.0]])

    loss = class_loss(logits, targets, torch.ones(3), smoothing=0.1)

    logs = [one - math.log(sum(map(math.exp, logits[0].tolist()))) for one in logits[0].tolist()]
    wanted = [0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3]
    assert float(loss) == pytest.approx(-sum(w * one for w, one in zip(wanted, logs, strict=True)))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    classes = np.repeat([0, 1, 2], [50, 8, 22])
    findings = np.stack([np.arange(60) < 15, np.arange(60) < 36], axis=1).astype(int)

    exclusive = label_weights(torch.eye(3)[classes], "balanced", exclusive=True)
    together = label_weights(torch.from_numpy(findings).float(), "balanced", exclusive=False)

    assert exclusive.tolist() == pytest.approx(
        compute_class_weight("balanced", classes=np.arange(3), y=classes).tolist()
    )
    for weight, finding in zip(together.tolist(), findings.T, strict=True):
        absent, present = compute_class_weight("balanced", classes=np.arange(2), y=finding)
        assert weight == pytest.approx(present / absent)


@pytest.mark.parametrize("prefixes", [(), (2,), (2, 5)])
def test_prefixes_are_judged_beside_the_whole_after_being_made_unit(prefixes: tuple[int, ...]) -> None:
    embeddings, targets = _batch(3)

    loss = prefix_contrastive_loss(embeddings, targets, 0.2, prefixes)

    parts = [embeddings, *(embeddings[:, :dim] / embeddings[:, :dim].norm(dim=1, keepdim=True) for dim in prefixes)]
    by_hand = [_contrastive_by_hand(part, targets, 0.2) for part in parts]
    assert float(loss) == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)
