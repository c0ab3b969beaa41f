import pytest

from maskhone.data.files import replace_when_done
from maskhone.errors import InputError


def test_the_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "new" / "größe.txt"
    with replace_when_done(path) as unfinished:
        unfinished.write_text("a")
        assert unfinished.suffix == ".txt"
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["größe.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with replace_when_done(path) as unfinished:
            unfinished.write_text("half")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    usual, path = tmp_path / "usual", tmp_path / "ours"
    usual.touch()
    with replace_when_done(path) as unfinished:
        unfinished.write_bytes(b"")
    assert path.stat().st_mode == usual.stat().st_mode


def test_unwritable_places_are_named_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    for path, said in [(tmp_path / "file" / "a.txt", "cannot write"), (tmp_path, "is a folder")]:
        ran = False
        with pytest.raises(InputError, match=said) as caught, replace_when_done(path):
            ran = True
        assert not ran
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_disk_error_inside_the_block_names_the_file(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(InputError, match=r"a\.txt: cannot write \(No space left"):
        with replace_when_done(path):
            raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
