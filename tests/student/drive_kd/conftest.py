"""Datasets that are written once."""

import pytest

from tests.student.drive_kd.datasets import write_student, write_teacher


@pytest.fixture(scope="session")
def teacher_path(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.zarr")


@pytest.fixture(scope="session")
def student_path(tmp_path_factory):
    return write_student(tmp_path_factory.mktemp("student") / "student.zarr")


@pytest.fixture(scope="session")
def pixels_path(tmp_path_factory):
    return write_student(tmp_path_factory.mktemp("pixels") / "pixels.zarr", images="pixels")
