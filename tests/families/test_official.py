"""Where official weights are, and what their names say of their content."""

from __future__ import annotations

import pytest

from streamexport.errors import NetError
from streamexport.families import official
from streamexport.families.resnet import RESNETS


def test_every_built_in_net_has_its_official_file_whose_name_says_its_hash():
    assert [*official.FILES] == [*RESNETS]
    assert all(official.digest(file) for file in official.FILES.values())
    assert len({*official.FILES.values()}) == len(RESNETS)


@pytest.mark.parametrize("name", ["resnext101_32x48d_wsl", "resnext-101-32x48d"])
def test_a_net_is_found_by_both_its_names(name):
    assert official.url(name) == "https://download.pytorch.org/models/ig_resnext101_32x48-3e41cc8a.pth"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("auto", "no net is named; name one that is built in"),
        ("torchvision.models:vgg16", "torchvision.models:vgg16 builds a module, of which nobody published"),
        ("resnet19", "no net called 'resnet19'; did you mean resnet1"),
    ],
)
def test_what_nobody_published_is_refused(name, said):
    with pytest.raises(NetError, match=said):
        official.url(name)


@pytest.mark.parametrize(
    ("file", "digest"),
    [
        ("ig_resnext101_32x48-3e41cc8a.pth", "3e41cc8a"),
        ("a-b-0123456789abcdef.pth.tar", "0123456789abcdef"),
        (f"net-{'0a' * 32}.safetensors", "0a" * 32),
        ("net-3e41cc8.pth", None),
        (f"net-{'0a' * 32}0.pth", None),
        ("net-3E41CC8A.pth", None),
        ("net-.pth", None),
        ("net3e41cc8a.pth", None),
        ("3e41cc8a-net.pth", None),
        ("net-3e41cc8a", None),
        ("net-3e41cc8a-swa.pth", None),
        ("", None),
    ],
)
def test_a_digest_is_eight_digits_or_more_at_the_end_of_a_name(file, digest):
    assert official.digest(file) == digest
