"""Backbones by name: the features of timm's own networks, weights of files and packages, and what users get wrong."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants

from networks.layers.resize import resize
from networks.loading import files, hub
from networks.loading.packaged import write_efficientnet_lite0
from networks.pretrained import load_backbone
from stores.errors import IntegrityError, RealMixError, StorageError, StoreError, UsageError

TINY = "timm:test_resnet"  # timm's own network for tests, 0.4 M parameters


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    return write_efficientnet_lite0(tmp_path_factory.mktemp("weights") / "lite0.safetensors")


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_packaged_weights_say_what_timms_own_network_says(lite0, images):
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    theirs.load_state_dict(safetensors.torch.load_file(lite0), strict=False)
    ours = load_backbone("timm:tf_efficientnet_lite0", str(lite0), size=64).eval()
    with torch.no_grad():
        features = ours(images)
        expected = theirs(resize(images, 64, "bicubic", 0.875))
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, ours.num_features) == (2, 1280)
    assert features.std() > 0.1, "ImageNet's weights, not random ones"
    assert ours.preprocessing["crop"] == 0.875


def test_the_hash_is_that_of_the_tensors(lite0, tmp_path):
    first = load_backbone("timm:tf_efficientnet_lite0", str(lite0)).weights_sha256
    torch.save({"state_dict": safetensors.torch.load_file(lite0)}, tmp_path / "same.pth")
    assert load_backbone("timm:tf_efficientnet_lite0", str(tmp_path / "same.pth")).weights_sha256 == first
    assert load_backbone("timm:tf_efficientnet_lite0", "none").weights_sha256 == ""


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [20, 48, 77])
def test_resizing_is_torchs(interpolation, size):
    images = torch.rand(2, 3, 48, 40)
    square = images[:, :, 4:44]
    expected = F.interpolate(square, (size, size), mode=interpolation, antialias=True)
    inner = slice(3, -3)  # at its border ours sees the pixels beyond the square
    torch.testing.assert_close(
        resize(images, size, interpolation)[:, :, inner], expected[:, :, inner], atol=1e-4, rtol=1e-4
    )
    squashed = F.interpolate(images, (size, size), mode=interpolation, antialias=True)
    torch.testing.assert_close(resize(images, size, interpolation, squash=True), squashed, atol=1e-4, rtol=1e-4)


def test_a_crop_is_the_middle_of_the_image():
    images = torch.zeros(1, 3, 40, 40)
    images[:, :, 5:35, 5:35] = 1
    assert (resize(images, 30, "bilinear", crop=0.75) == 1).all()
    assert resize(images, 40) is images


def test_pixels_are_brought_to_the_mean_and_deviation_of_the_weights():
    backbone = load_backbone("timm:test_efficientnet", "none", size=32)
    backbone.preprocessing["crop"], backbone.net = 1.0, torch.nn.Identity()
    grey = torch.full((1, 3, 32, 32), 2 * 0.485 - 1)
    torch.testing.assert_close(backbone(grey)[0, 0], torch.zeros(32, 32), atol=1e-6, rtol=0)
    torch.testing.assert_close(backbone(torch.ones(1, 3, 32, 32))[0, 2], torch.full((32, 32), (1 - 0.406) / 0.225))


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet", "test_byobnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("size", [None, 64])
def test_families_of_timm(name, size, images):
    backbone = load_backbone(f"timm:{name}", "none", size).eval()
    with torch.no_grad():
        features = backbone(images)
    assert features.shape == (2, backbone.num_features)
    assert backbone.size == (size or timm.get_pretrained_cfg(name).input_size[-1])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_families_of_torchvision(name, images):
    backbone = load_backbone(f"torchvision:{name}", "none", 48).eval()
    with torch.no_grad():
        assert backbone(images).shape == (2, backbone.num_features)


def test_a_file_of_the_same_network_is_read_with_its_classifier_or_without(tmp_path, images):
    net = timm.create_model("test_resnet")
    safetensors.torch.save_file(net.state_dict(), tmp_path / "whole.safetensors")
    net.reset_classifier(0)
    torch.save({f"module.{name}": t for name, t in net.state_dict().items()}, tmp_path / "part.pth")
    both = [load_backbone(TINY, str(tmp_path / name), 32).eval() for name in ("whole.safetensors", "part.pth")]
    with torch.no_grad():
        torch.testing.assert_close(both[0](images), both[1](images), atol=0, rtol=0)


class Runs:
    def __reduce__(self):
        return print, ("this ran",)


def write_wrong(path, kind):
    tensors = timm.create_model("test_resnet").state_dict()
    match kind:
        case "other":
            safetensors.torch.save_file(timm.create_model("test_convnext").state_dict(), path)
        case "shape":
            safetensors.torch.save_file(tensors | {"conv1.0.weight": torch.zeros(3)}, path)
        case "nan":
            name = next(name for name in tensors if name.endswith("weight"))
            safetensors.torch.save_file(tensors | {name: tensors[name] * torch.nan}, path)
        case "cut":
            safetensors.torch.save_file(tensors, path)
            path.write_bytes(path.read_bytes()[:-100])
        case "code":
            path.write_bytes(pickle.dumps({"state_dict": Runs()}, protocol=2))
        case "text":
            path.write_text("no weights")
        case "list":
            torch.save([1, 2], path)
        case "cut.pth":
            torch.save(tensors, path)
            path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("a.safetensors", "other", UsageError),
        ("a.safetensors", "shape", UsageError),
        ("a.safetensors", "nan", IntegrityError),
        ("a.safetensors", "cut", IntegrityError),
        ("a.safetensors", "text", IntegrityError),
        ("a.pth", "text", IntegrityError),
        ("a.pth", "code", IntegrityError),
        ("a.pth", "list", IntegrityError),
        ("a.pth", "cut.pth", IntegrityError),
        ("a.txt", "text", UsageError),
        ("a.pth", "absent", StoreError),
    ],
)
def test_wrong_files_are_one_error_and_run_nothing(name, kind, error, tmp_path, capsys):
    write_wrong(tmp_path / name, kind)
    with pytest.raises(error):
        load_backbone(TINY, str(tmp_path / name))
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("timm:test_resnett", None, "did you mean"),
        ("timm:hf-hub:someone/something", None, "timm has no network"),
        ("timm:", None, "timm has no network"),
        ("torchvision:resnet19", None, "did you mean resnet18"),
        ("torchvision:squeezenet1_0", None, "without its classifier"),
        ("torchvision:fcn_resnet50", None, "torchvision has no network"),
        ("resnet18", None, "unknown backbone"),
        ("wrn-28-2", None, "`realmix-train --init RUN`"),
        (TINY, 0, "no images of 0 pixels"),
        ("timm:mixer_s32_224", 96, "224 pixels only"),
        ("torchvision:vit_b_16", 96, "cannot take images of 96 pixels"),
    ],
)
def test_wrong_names_and_sizes_are_one_error(name, size, says):
    with pytest.raises(UsageError) as error:
        load_backbone(name, "none", size)
    assert says in str(error.value)


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path):
    """Its client would ask twelve times, for 46 seconds. A process of its own: it reads the environment once."""
    code = (
        "from networks.pretrained import load_backbone\nfrom stores.errors import StorageError\n"
        "try: load_backbone('timm:tf_efficientnet_lite0')\n"
        "except StorageError as error: print('SAID', error.what, '/', error.why, '/', error.hint)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def hang_up():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed
                    return
                asked.append(connection.recv(9))
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
            "NO_PROXY": "*",
            "HF_HOME": str(tmp_path),
            "PATH": "",
            "HOME": str(tmp_path),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        server.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        thread.join()
    assert asked == [b"HEAD / HT"]
    assert "SAID no pretrained weights of 'timm:tf_efficientnet_lite0' / they were not downloaded before" in done.stdout
    assert "/ --weights FILE" in done.stdout


def test_whether_a_server_answers(monkeypatch):
    """An error is an answer; silence is none."""

    def refuse():
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 404 None\r\n\r\n")

    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with monkeypatch.context() as patch:
            patch.setattr(hub, "PATIENCE", 0.05)
            assert not hub.answers(url)
        server.accept()[0].close()  # the connection that was given up
        thread = threading.Thread(target=refuse)
        thread.start()
        assert hub.answers(url)
        thread.join()
    assert not hub.answers(url), "nobody listens"


def test_offline_is_the_state_of_the_call_alone(monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda url: False)
    before = constants.HF_HUB_OFFLINE
    with hub.offline_if_unreachable():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert not before


def test_errors_of_downloads_are_told_apart():
    assert issubclass(StorageError, RealMixError)
    with pytest.raises(UsageError, match="no pretrained weights"):
        load_backbone("timm:test_resnet.nonsense")


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError) as error:
        load_backbone(TINY, "none")
    assert "realmix[backbones]" in error.value.hint


def test_hashes_tell_names_types_and_shapes_apart():
    zeros = torch.zeros(4)
    variants = [{"a": zeros}, {"b": zeros}, {"a": zeros.half()}, {"a": zeros.view(2, 2)}, {"a": zeros + 1}]
    assert len({files.sha256_of(tensors) for tensors in variants}) == len(variants)
