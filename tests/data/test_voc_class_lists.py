import pytest

from maskhone.data.voc import VOC_CLASSES, read_voc_list
from maskhone.data.voc_class_lists import read_voc_class_list
from maskhone.errors import InputError


@pytest.mark.parametrize("split", ["train", "val"])
def test_together_they_are_vocs_own_lists(split):
    found = [set(read_voc_class_list(f"voc:{name}:{split}")) for name in VOC_CLASSES]
    assert set().union(*found) == set(read_voc_list(split))


@pytest.mark.parametrize("name", ["voc:dragon:train", "voc:car", "voc:car:test", "voc:"])
def test_other_lists_are_refused(name):
    with pytest.raises(InputError, match="expected voc:CLASS:train"):
        read_voc_class_list(name)
