"""API keys: the file, the command, and the limits of each key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from gateways import StartGateway
from support import run_command

from sceneloom_gateway.keys import Key, Keys, Limits, new_key, read_keys, write_keys
from sceneloom_gateway.problems import Problem

Add = Callable[..., str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def add(file: Path) -> Add:
    def add_one(name: str, **limits: float) -> str:
        entry, text = new_key(name, Limits(**limits))  # type: ignore[arg-type]
        write_keys(file, (*(read_keys(file) if file.exists() else ()), entry))
        return text

    return add_one


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def test_the_command_shows_a_key_once_and_keeps_its_hash(file: Path) -> None:
    added = run_command("gateway-keys", "add", file, "alice", "--rate", "5")
    text = added.stdout.strip()
    assert added.returncode == 0
    assert text.partition(".")[2] not in file.read_text()
    assert Keys(file).find(text).name == "alice"
    assert "alice: 5 requests a second" in run_command("gateway-keys", "list", file).stdout
    again = run_command("gateway-keys", "add", file, "alice")
    assert (again.returncode, "has a key of 'alice'" in again.stderr) == (1, True)
    missing = run_command("gateway-keys", "remove", file, "bob")
    assert (missing.returncode, "it has alice" in missing.stderr) == (1, True)
    assert run_command("gateway-keys", "remove", file, "alice").returncode == 0
    assert read_keys(file) == ()


def test_wrong_keys_are_refused(file: Path, add: Add) -> None:
    text = add("alice")
    keys = Keys(file)
    id, _, secret = text.partition(".")
    for wrong in ("", "x", id, f"{id}.", f"{id}.{secret}x", f"x.{secret}", f"{id}.{secret[:-1]}"):
        with pytest.raises(Problem) as caught:
            keys.find(wrong)
        assert caught.value.status == 401
    start = time.perf_counter()
    assert keys.find(text) == keys.find(text)
    for _ in range(1000):
        keys.find(text)
    assert time.perf_counter() - start < 5  # argon2 runs once


def test_a_damaged_file_is_refused_and_never_replaces_a_good_one(
    file: Path, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    text = add("alice")
    keys = Keys(file)
    good = file.read_text()
    file.write_text("{")
    with pytest.raises(ValueError, match=r"keys\.json: "):
        Keys(file)
    time.sleep(1.1)
    assert keys.find(text).name == "alice"
    assert "the last keys stay in force" in capsys.readouterr().err
    document = json.loads(good)
    document["keys"] *= 2
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="two keys have the id"):
        read_keys(file)


def test_each_key_has_a_rate_and_a_number_in_flight(file: Path, add: Add) -> None:
    keys = Keys(file) if add("alice", rate=0.5, in_flight=2) else None
    assert keys is not None
    (key,) = read_keys(file)
    with keys.admitted(key), pytest.raises(Problem) as caught, keys.admitted(key):
        pass
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "2")
    fast = Key(id="a", name="bob", hash="", limits=Limits(rate=100.0, in_flight=1))
    with keys.admitted(fast), pytest.raises(Problem) as caught, keys.admitted(fast):
        pass
    assert (caught.value.status, caught.value.kind) == (429, "InFlightLimit")
    with keys.admitted(fast):
        pass


def test_a_gateway_with_keys(
    start_gateway: StartGateway, file: Path, add: Add, maps: dict[str, bytes]
) -> None:
    text, slow = add("alice"), add("bob", rate=0.5)
    gateway = start_gateway("--keys", file, "--keys-on-loopback")
    with httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as client:
        for headers in ({}, bearer("x.y"), {"Authorization": f"Basic {text}"}):
            answer = client.get("/v1/model", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = client.post("/v1/synthesize", files=maps, headers=bearer(text))
        assert answer.status_code == 200
        assert client.get("/v1/model", headers={"X-API-Key": text}).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == 200
        statuses = [client.get("/v1/model", headers=bearer(slow)) for _ in range(2)]
        assert [one.status_code for one in statuses] == [200, 429]
        assert int(statuses[1].headers["retry-after"]) >= 1
        added = add("carol")  # a running gateway takes new keys, and drops removed ones
        write_keys(file, tuple(key for key in read_keys(file) if key.name != "alice"))
        time.sleep(1.1)
        assert client.get("/v1/model", headers=bearer(added)).status_code == 200
        assert client.get("/v1/model", headers=bearer(text)).status_code == 401
        for name in ("alice", "bob", "carol", ""):
            gateway.logged(key=name)
        assert not any(text in json.dumps(line) for line in gateway.log())


def test_this_machine_needs_no_key_unless_asked_for(
    start_gateway: StartGateway, file: Path, add: Add
) -> None:
    add("alice")
    gateway = start_gateway("--keys", file)
    assert httpx.get(f"{gateway.url}/v1/model", trust_env=False).status_code == 200
    wrong = httpx.get(f"{gateway.url}/v1/model", headers=bearer("x.y"), trust_env=False)
    assert wrong.status_code == 401
