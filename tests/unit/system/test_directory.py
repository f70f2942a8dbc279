"""Noticing that files were changed, by the real kernel."""

import os
import select

import pytest

from netconf_hooks.system.directory import Directory


@pytest.fixture
def path(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records/eth0").write_text("whole")
    return tmp_path / "records"


@pytest.fixture
def directory(path):
    directory = Directory(str(path))
    yield directory
    directory.close()


def is_ready(directory):
    """Whether poll(2) would wake up."""
    return bool(select.select([directory.fileno()], [], [], 0)[0])


@pytest.mark.parametrize("change", [
    lambda path: (path / "eth0").unlink(), lambda path: (path / "eth0").write_text("x"),
    lambda path: os.truncate(path / "eth0", 1), lambda path: (path / "eth0").rename(path.parent / "x"),
    lambda path: (path / "eth1").symlink_to("x"), lambda path: os.mkfifo(path / "eth1"),
    lambda path: path.rename(path.parent / "elsewhere"),
])  # fmt: skip
def test_it_notices_each_change_once(path, directory, change):
    assert not is_ready(directory) and not directory.has_changed()
    change(path)
    assert is_ready(directory)
    assert directory.has_changed()
    assert not is_ready(directory) and not directory.has_changed()


def test_what_is_written_beside_the_place_of_a_record_is_no_change(path, directory):
    (path / ".eth0.new").write_text("new")
    assert not directory.has_changed()
    (path / ".eth0.new").rename(path / "eth0")
    assert directory.has_changed()


def test_to_read_is_no_change(path, directory):
    assert (path / "eth0").read_text() == "whole"
    assert not is_ready(directory)


def test_another_directory_of_that_name_is_watched_once_it_is_there(path, directory):
    (path / "eth0").unlink()
    path.rmdir()
    assert directory.has_changed()
    assert not directory.watch()
    path.mkdir()
    assert directory.watch()
    (path / "eth0").write_text("x")
    assert directory.has_changed()


def test_more_news_than_the_kernel_keeps_are_a_change(path, directory, monkeypatch):
    overflow = (-1).to_bytes(4, "little", signed=True) + (0x4000).to_bytes(4, "little") + bytes(8)
    answers = [overflow]

    def read(descriptor, size):
        if answers:
            return answers.pop()
        raise BlockingIOError

    monkeypatch.setattr(os, "read", read)
    assert directory.has_changed()
