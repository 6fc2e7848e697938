"""The blocks of docs/gateway.md, run by bash, with TLS, keys and the real Triton server."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
import trustme
from gateway_jobs import map_files, zip_of
from gateways import StartGateway, png
from support import CHECKOUT, blocky_maps

from sceneloom.pictures import decode_picture
from sceneloom.triton.client import TritonSynthesizer
from sceneloom_gateway.keys import Limits, new_key, write_keys

if TYPE_CHECKING:
    from sceneloom_serving.embedded import EmbeddedServer


@pytest.mark.triton
def test_the_blocks_of_the_page(
    server: EmbeddedServer, start_gateway: StartGateway, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key, ca, keys = (tmp_path / name for name in ("chain.pem", "key.pem", "ca", "keys.json"))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    entry, secret = new_key("bob", Limits())
    write_keys(keys, (entry,))
    tls = ("--tls-cert", chain, "--tls-key", key)
    flags = (*tls, "--keys", keys, "--keys-on-loopback", "--jobs.folder", tmp_path / "jobs")
    gateway = start_gateway(*flags, url=server.grpc)
    (tmp_path / ".curlrc").write_text(f'header = "Authorization: Bearer {secret}"\n')
    label_map, instance_map = blocky_maps(64, 96, seed=2, labels=34)
    (tmp_path / "labels.png").write_bytes(png(label_map))
    (tmp_path / "instances.png").write_bytes(png(instance_map.astype(np.uint16)))
    blocks = re.findall(r"```bash\n(.*?)```", (CHECKOUT / "docs" / "gateway.md").read_text(), re.S)
    (tmp_path / "maps.zip").write_bytes(zip_of(map_files(5, 64, 96)))
    assert len(blocks) == 4
    environment = {
        **os.environ,
        "URL": gateway.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "no_proxy": "127.0.0.1",
        "CURL_CA_BUNDLE": str(ca),
    }
    for block in blocks:
        own_key = "alice.key" in block
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environment | {"CURL_HOME": "/nowhere" if own_key else str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    with TritonSynthesizer(server.grpc) as synthesizer:
        wanted = synthesizer.synthesize(label_map, instance_map)
    files = {name: (tmp_path / f"{name}.png").read_bytes() for name in ("labels", "instances")}
    answer = httpx.post(
        f"{gateway.url}/v1/synthesize",
        files={"label": files["labels"], "instances": files["instances"]},
        headers={"Accept": "image/png", "Authorization": f"Bearer {secret}"},
        verify=ssl.create_default_context(cafile=str(ca)),
        timeout=60,
        trust_env=False,
    )
    np.testing.assert_array_equal(decode_picture(answer.content), wanted)
    with zipfile.ZipFile(tmp_path / "pictures.zip") as pictures:
        assert pictures.testzip() is None
        names = [f"a/{number:04}.jpg" for number in range(5)]
        assert pictures.namelist() == [*names, "manifest.jsonl"]
    for name in ("out.jpg", "out.png", "out2.jpg"):
        assert decode_picture((tmp_path / name).read_bytes()).shape == wanted.shape
