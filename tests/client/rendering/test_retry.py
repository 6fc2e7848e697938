"""Which requests are sent again, after how long, and how many in all."""

from __future__ import annotations

import pytest

from sceneloom.errors import (
    DeadlineExceededError,
    InputError,
    ModelFailedError,
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    RequestRejectedError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.rendering.retries import RetryBudget, RetryPolicy


@pytest.mark.parametrize("kind", [QueueFullError, QueueTimeoutError, DeadlineExceededError])
def test_a_busy_server_is_asked_again_until_the_attempts_are_used_up(
    kind: type[ServingError],
) -> None:
    policy = RetryPolicy(attempts=3)
    errors: list[ServingError] = []
    said = []
    for _ in range(3):
        errors.append(kind("busy"))
        said.append(policy.again(errors[-1], errors))
    assert said == [True, True, False]


@pytest.mark.parametrize("kind", [RequestRejectedError, ModelNotFoundError])
def test_a_wrong_request_is_never_sent_again(kind: type[ServingError]) -> None:
    error = kind("wrong")
    assert not RetryPolicy().again(error, [error])


def test_each_kind_of_failure_has_attempts_of_its_own() -> None:
    policy = RetryPolicy(attempts=2, server_attempts=5)
    away: list[ServingError] = [ServerUnavailableError("away") for _ in range(4)]
    assert policy.again(away[-1], away)
    full = QueueFullError("full")
    assert policy.again(full, [*away, full])
    assert not policy.again(full, [*away, full, full])
    assert not policy.again(away[-1], [*away, full, away[-1]])


def test_a_model_that_breaks_gets_few_tries() -> None:
    error = ModelFailedError("broke")
    policy = RetryPolicy(model_attempts=2)
    assert policy.again(error, [error])
    assert not policy.again(error, [error, error])


def test_waits_grow_and_are_drawn() -> None:
    policy = RetryPolicy(first_wait=0.1, longest_wait=2.0)
    for failures, longest in ((1, 0.1), (2, 0.2), (4, 0.8), (9, 2.0), (5000, 2.0)):
        waits = [policy.wait(failures) for _ in range(300)]
        assert 0 <= min(waits) < 0.2 * longest
        assert 0.8 * longest < max(waits) <= longest


def test_the_budget_lets_few_through_and_never_none() -> None:
    budget = RetryBudget(0.5)
    waits = [budget.spend(now=0.0) for _ in range(15)]
    assert waits[:10] == [0.0] * 10
    assert waits[10:] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert budget.spend(now=100.0) == 0.0
    spent = RetryBudget(0.5, max_left=4)
    spent.requests = 1000
    assert [spent.spend(now=0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": 0},
        {"model_attempts": 2000},
        {"first_wait": 0.0},
        {"budget": -0.1},
        {"longest_wait": float("nan")},
    ],
)
def test_refuses_policies_that_make_no_sense(change: dict[str, float]) -> None:
    with pytest.raises(InputError):
        RetryPolicy(**change)  # type: ignore[arg-type]
