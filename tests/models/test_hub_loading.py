"""Models by hub name: loaded as from a folder, pinned to a commit, from the cache when offline, one line when not to be had.

The hub is a server of ours, and each environment a process of its own, because huggingface_hub reads its settings once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import peft
import pytest
from hub_server import HubServer
from huggingface_hub.utils import filter_repo_objects
from saved_models import GPT2, LLAMA, adapted, save
from tiny import write_model

from lmntk.errors import UserError
from lmntk.models.hub import locate
from lmntk.models.loading import load_pretrained

OLD, NEW = "a" * 40, "b" * 40
LOADER = """
import json, sys
from lmntk.errors import UserError
from lmntk.models.loading import load_pretrained
for arguments in json.loads(sys.stdin.read()):
    try:
        loaded = load_pretrained(**arguments)
        print(json.dumps([loaded.fingerprint, loaded.kind, loaded.adapter, loaded.revision]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def load_each(endpoint, cache, *calls, offline=False):
    """Returns what each call gave, in one new process: [fingerprint, kind, adapter, revision], or the error's text."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": str(int(offline)),
        "OMP_NUM_THREADS": "1",
    }
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADER],
        input=json.dumps(calls),
        env=kept | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(calls), done.stdout
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A hub with four repositories, and what was said by processes online, then offline, then with a dead network."""
    root = tmp_path_factory.mktemp("hub")
    old, new = write_model(root / "old", seed=0), write_model(root / "new", seed=1)
    (new / "pytorch_model.bin").write_bytes(b"a pickle that nobody asked for")
    (new / "onnx").mkdir()
    (new / "onnx" / "model.safetensors").write_bytes(b"of no use here")
    sharded = root / "sharded"
    save(GPT2(), sharded, max_shard_size="5KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    save(LLAMA(), root / "base")
    other_base = LLAMA()
    other_base.lm_head.weight.data += 1
    save(other_base, root / "other-base")
    targets = [f"{name}_proj" for name in ("q", "k", "v", "o", "up", "gate", "down")]
    adapter = adapted(
        LLAMA(),
        root / "adapter",
        "owner/base",
        peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, revision=OLD),
    )
    pickled = root / "pickled"
    save(GPT2(), pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    repositories = {
        "owner/bert": {OLD: old, NEW: new},
        "owner/sharded": {OLD: sharded},
        "owner/base": {OLD: root / "base", NEW: root / "other-base"},
        "owner/adapter": {OLD: adapter},
        "owner/pickled": {OLD: pickled},
        "owner/gated": {OLD: old},
    }
    found = SimpleNamespace(root=root, old=old, new=new, sharded=sharded, adapter=adapter)
    with HubServer(repositories, gated=["owner/gated"]) as hub:
        calls = [
            {"name": str(old)},
            {"name": str(adapter), "base": str(root / "base")},
        ]
        found.local = load_each(hub.address, root / "cache", *calls)
        found.requests_of_local = list(hub.requests)
        calls = [
            {"name": "owner/bert"},
            {"name": "owner/bert", "revision": OLD},
            {"name": "owner/sharded"},
            {"name": "owner/adapter", "revision": OLD},
            {"name": str(adapter), "revision": NEW},
            {"name": "owner/misspelt"},
            {"name": "owner/bert", "revision": "no-such-tag"},
            {"name": "owner/gated"},
            {"name": "owner/pickled"},
            {"name": "not a name"},
        ]
        found.online = load_each(hub.address, root / "cache", *calls)
        found.requests = list(hub.requests)
        calls = [
            {"name": "owner/bert"},
            {"name": "owner/bert", "revision": OLD},
            {"name": "owner/sharded"},
            {"name": "owner/adapter", "revision": OLD},
            {"name": "owner/uncached"},
            {"name": "owner/bert", "revision": "c" * 40},
        ]
        found.offline = load_each(hub.address, root / "cache", *calls, offline=True)
        found.requests_of_offline = hub.requests[len(found.requests) :]
        dead = hub.address
    found.dead = load_each(dead, root / "cache", {"name": "owner/bert"}, {"name": "owner/uncached"})
    return found


def assert_one_line(text, *parts):
    assert isinstance(text, str), text
    assert "\n" not in text and "http" not in text and len(text) < 250, text
    for part in parts:
        assert part in text


def test_a_folder_never_asks_the_network(world):
    assert world.requests_of_local == []
    assert [row[2:] for row in world.local] == [[False, None], [True, None]]


def test_a_name_loads_what_the_folder_holds(world):
    assert world.online[0] == [load_pretrained(str(world.new)).fingerprint, "masked", False, NEW]


def test_a_revision_pins_the_weights(world):
    assert world.online[1] == [load_pretrained(str(world.old)).fingerprint, "masked", False, OLD]
    assert world.online[1][0] != world.online[0][0]


def test_sharded_weights(world):
    assert world.online[2] == [load_pretrained(str(world.sharded)).fingerprint, "causal", False, OLD]


def test_an_adapter_and_its_base_by_name(world):
    # The adapter's config names its base's first revision; one that is asked for goes before it.
    assert world.online[3] == [world.local[1][0], "causal", True, OLD]
    other = load_pretrained(str(world.adapter), base=str(world.root / "other-base")).fingerprint
    assert world.online[4] == [other, "causal", True, NEW]
    # PEFT keeps the names of its targets in a set, which is in another order in each process.
    assert (
        load_pretrained(str(world.adapter), base=str(world.root / "base")).fingerprint
        == world.local[1][0]
        != other
    )


def test_neither_pickles_nor_other_formats_are_downloaded(world):
    asked = [request for request in world.requests if "/resolve/" in request]
    assert asked
    assert not [request for request in asked if request.endswith(".bin") or "onnx" in request]


def test_what_is_not_to_be_had_is_said_in_one_line(world):
    assert_one_line(world.online[5], "'owner/misspelt'", "does not exist", "check the spelling, or log in")
    assert_one_line(world.online[6], "'owner/bert'", "no revision 'no-such-tag'")
    assert_one_line(world.online[7], "'owner/gated'", "is gated", "log in")
    assert_one_line(world.online[8], "'owner/pickled'", "no model.safetensors")
    assert_one_line(world.online[9], "'not a name'", "neither a folder here nor a hub name")


def test_the_cache_is_enough_offline(world):
    assert world.requests_of_offline == []
    assert world.offline[:4] == world.online[:4]


def test_offline_and_not_in_the_cache(world):
    assert_one_line(
        world.offline[4], "'owner/uncached'", "not in the cache", "offline mode is on", "unset HF_HUB_OFFLINE"
    )
    assert_one_line(world.offline[5], "'owner/bert'", f"at revision '{'c' * 40}'", "offline mode is on")


def test_an_answer_that_breaks_off_is_no_answer(world, monkeypatch):
    """What is in the cache is taken then too; the library itself goes there only where nothing listens."""
    import huggingface_hub

    found = huggingface_hub.snapshot_download

    def broken(*names, local_files_only=False, **how):
        if not local_files_only:
            raise ConnectionResetError("Connection reset by peer")
        return found(*names, local_files_only=True, cache_dir=world.root / "cache" / "hub", **how)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    assert locate("owner/bert").revision == NEW and locate("owner/bert", OLD).revision == OLD
    for name, revision in (("owner/uncached", None), ("owner/bert", "c" * 40)):
        with pytest.raises(UserError) as caught:
            locate(name, revision)
        assert_one_line(
            str(caught.value), repr(name), "not in the cache"
        )  # tests are offline, so not which of the two reasons


def test_the_network_is_down(world):
    assert world.dead[0] == world.online[0]
    assert_one_line(world.dead[1], "'owner/uncached'", "the hub cannot be reached", "check the network")


def test_a_tokenizer_alone_downloads_no_weights(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **patterns: asked.update(patterns) or str(tmp_path)
    )
    files = [
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
        "model-1-of-2.safetensors",
    ]
    files += ["adapter_model.safetensors", "model.safetensors.index.json"]
    for weights, wanted in ((True, files), (False, files[:3])):
        locate("owner/model", weights=weights)
        taken = filter_repo_objects(
            files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
        )
        assert list(taken) == wanted
