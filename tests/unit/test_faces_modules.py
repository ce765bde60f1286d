"""The modules of examples/faces, each run by hand as its README shows: a directory laid out as Ion would, no Ion."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

FACES = Path(__file__).parents[2] / "examples" / "faces"
PHOTOS = FACES / "photos"
COMMANDS: dict[str, list[str | Path]] = {
    "detect": [sys.executable, FACES / "modules" / "detect" / "detect.py"],
    "blur": [sys.executable, FACES / "modules" / "blur" / "blur.py"],
    "catalogue": ["sh", FACES / "modules" / "catalogue" / "catalogue.sh"],
}

Pairs = list[dict[str, str]]


class Workspace:
    def __init__(self, base: Path) -> None:
        self.base = base
        for directory in ("in/data", "out/data", "out/events"):
            (base / directory).mkdir(parents=True)

    def run(self, module: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HANDLER_BASE_DIR": str(self.base)}
        return subprocess.run(COMMANDS[module], env=environment, capture_output=True, text=True)

    def run_well(self, module: str) -> None:
        done = self.run(module)
        assert done.returncode == 0, done.stderr

    def give(self, file: Path, name: str | None = None) -> None:
        shutil.copy(file, self.base / "in" / "data" / (name or file.name))

    def give_pairs(self, pairs: Pairs, *, ensure_ascii: bool = True) -> None:
        text = json.dumps(pairs, ensure_ascii=ensure_ascii)
        (self.base / "in" / "eventmeta.json").write_text(text, encoding="utf-8")

    def give_event_of(self, other: "Workspace", name: str) -> dict[str, str]:
        """Hands on an event of another module with its file, and with the pair that Ion adds for the file."""
        event = other.events()[name]
        crop = other.base / "out" / "data" / event["files"]
        self.give(crop)
        pairs = [{"key": key, "value": value} for key, value in event.items() if key not in {"eventType", "files"}]
        self.give_pairs([*pairs, {"key": crop.name, "value": crop.as_uri()}])
        return event

    def events(self) -> dict[str, dict[str, str]]:
        return {path.stem: as_map(path) for path in sorted((self.base / "out" / "events").iterdir())}

    def insights(self) -> dict[str, str]:
        return as_map(self.base / "out" / "insights.json")


def as_map(path: Path) -> dict[str, str]:
    pairs = json.loads(path.read_text(encoding="utf-8"))
    assert all(pair.keys() == {"key", "value"} and isinstance(pair["value"], str) for pair in pairs)
    return {pair["key"]: pair["value"] for pair in pairs}


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None, f"{path} is not a picture"
    return image


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ion")


@pytest.fixture(scope="module")
def detected(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """What detect made of the photograph with three faces."""
    workspace = Workspace(tmp_path_factory.mktemp("detect") / "ion")
    workspace.give(PHOTOS / "collage.jpg")
    workspace.run_well("detect")
    return workspace


@pytest.mark.parametrize(("photo", "faces"), [("astronaut.jpg", 1), ("cat.jpg", 0), ("collage.jpg", 3)])
def test_detect_emits_one_event_for_each_face(workspace: Workspace, photo: str, faces: int) -> None:
    workspace.give(PHOTOS / photo)
    workspace.run_well("detect")

    events = list(workspace.events().values())
    assert [(event["eventType"], event["photo"]) for event in events] == [("face.detected", photo)] * faces
    assert workspace.insights() == {"photos": "1", "faces": str(faces)}


def test_detect_says_where_the_faces_are_and_crops_them(detected: Workspace) -> None:
    photo = picture(PHOTOS / "collage.jpg")
    lefts = []
    for event in detected.events().values():
        x, y, width, height = (int(event[key]) for key in ("x", "y", "width", "height"))
        assert 0 <= x < x + width <= photo.shape[1]
        assert 0 <= y < y + height <= photo.shape[0]
        crop = picture(detected.base / "out" / "data" / event["crop"])
        cut_out = photo[y : y + height, x : x + width]
        assert crop.shape == cut_out.shape
        assert np.abs(crop.astype(int) - cut_out).mean() < 5  # JPEG is not exact
        assert event["files"] == event["crop"]
        lefts.append(x)
    assert lefts == sorted(lefts)


def test_detect_numbers_faces_across_the_photographs_of_one_event(workspace: Workspace) -> None:
    workspace.give(PHOTOS / "astronaut.jpg", "a, with a comma.jpg")
    (workspace.base / "in" / "data" / "below").mkdir()
    workspace.give(PHOTOS / "collage.jpg", "below/b.jpg")
    workspace.run_well("detect")

    events = list(workspace.events().values())
    assert [event["photo"] for event in events] == ["a, with a comma.jpg", *["below/b.jpg"] * 3]
    assert [event["crop"] for event in events] == [f"face-00{n}.jpg" for n in (1, 2, 3, 4)]
    assert workspace.insights() == {"photos": "2", "faces": "4"}


def test_detect_fails_on_a_file_that_is_no_picture_and_names_it(workspace: Workspace) -> None:
    workspace.give(FACES / "README.md", "notes.jpg")
    done = workspace.run("detect")

    assert done.returncode == 1
    assert "notes.jpg: not a picture" in done.stderr


def test_detect_fails_on_an_event_without_a_file(workspace: Workspace) -> None:
    done = workspace.run("detect")

    assert done.returncode == 1
    assert "no photograph in the event" in done.stderr


@pytest.mark.parametrize("name", ["face-001", "face-002", "face-003"])
def test_blur_leaves_nothing_of_a_face_but_its_size(workspace: Workspace, detected: Workspace, name: str) -> None:
    face = workspace.give_event_of(detected, name)
    workspace.run_well("blur")

    event = workspace.events()["blurred"]
    sharp = picture(workspace.base / "in" / "data" / face["crop"])
    blurred = picture(workspace.base / "out" / "data" / event["files"])
    assert blurred.shape == sharp.shape
    assert np.abs(blurred.astype(int) - sharp).mean() > 15
    # Detail is what makes a face: the strength of its edges, of which hardly any may be left.
    assert detail(blurred) < detail(sharp) / 100
    passed_on = {key: face[key] for key in ("photo", "crop", "x", "y", "width", "height")}
    assert event == {"eventType": "face.blurred", "files": face["crop"], **passed_on}


def detail(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def test_blur_takes_the_later_of_two_pairs_with_one_key(workspace: Workspace) -> None:
    workspace.give(PHOTOS / "astronaut.jpg", "second.jpg")
    workspace.give_pairs([{"key": "crop", "value": "first.jpg"}, {"key": "crop", "value": "second.jpg"}])
    workspace.run_well("blur")

    assert workspace.events()["blurred"] == {
        "eventType": "face.blurred",
        "files": "second.jpg",
        "crop": "second.jpg",
    }


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [(None, 'no pair "crop"'), ([{"key": "crop", "value": "a.jpg"}], "in/data/a.jpg: not there")],
)
def test_blur_fails_without_its_crop(workspace: Workspace, pairs: Pairs | None, complaint: str) -> None:
    if pairs is not None:
        workspace.give_pairs(pairs)
    done = workspace.run("blur")

    assert done.returncode == 1
    assert complaint in done.stderr


def test_catalogue_notes_what_the_event_said_and_the_size_of_the_crop(
    workspace: Workspace, detected: Workspace
) -> None:
    face = workspace.give_event_of(detected, "face-002")
    workspace.run_well("catalogue")

    crop = workspace.base / "in" / "data" / face["crop"]
    insights = workspace.insights()
    assert insights["photo"] == "collage.jpg"
    assert insights["catalogued"] == "face-002.jpg"
    assert insights["bytes"] == str(crop.stat().st_size)
    assert workspace.events() == {}


HOSTILE_NAMES = [
    'a "quoted" name',
    "back\\slash \\n \\u0041 & \\1",
    "two\nlines\n",
    "tab\tand \x01\x1f\x7f control",
    "Zoë 日本 🙂 \u2028",
    "[brackets], {braces}]",
    "%s %d $HOME `id` $(id)",
]


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_catalogue_writes_valid_json_whatever_the_names(workspace: Workspace, name: str, ensure_ascii: bool) -> None:
    workspace.give(PHOTOS / "cat.jpg", name)
    workspace.give_pairs([{"key": "photo", "value": name}], ensure_ascii=ensure_ascii)
    workspace.run_well("catalogue")

    size = str((PHOTOS / "cat.jpg").stat().st_size)
    assert workspace.insights() == {"photo": name, "catalogued": name, "bytes": size}


@pytest.mark.parametrize("text", [None, "[]", "[\n]\n", ' [ { "key" : "photo" ,\r\n"value":"a" } ] \n\n'])
def test_catalogue_takes_pairs_in_any_layout_or_none_at_all(workspace: Workspace, text: str | None) -> None:
    workspace.give(PHOTOS / "cat.jpg")
    if text is not None:
        (workspace.base / "in" / "eventmeta.json").write_text(text, encoding="utf-8", newline="")
    workspace.run_well("catalogue")

    insights = workspace.insights()
    assert list(insights) == [*(["photo"] if text and "photo" in text else []), "catalogued", "bytes"]
    assert insights["catalogued"] == "cat.jpg"


@pytest.mark.parametrize("crops", [0, 2])
def test_catalogue_fails_unless_there_is_one_crop(workspace: Workspace, crops: int) -> None:
    for n in range(crops):
        workspace.give(PHOTOS / "cat.jpg", f"{n}.jpg")
    done = workspace.run("catalogue")

    assert done.returncode == 1
    assert "expected one crop" in done.stderr


def test_catalogue_leaves_out_the_addresses_of_files(workspace: Workspace) -> None:
    """They may be signed, and an insight is for ever."""
    workspace.give(PHOTOS / "cat.jpg")
    signed = {"key": "cat.jpg", "value": 'https://bucket.example/cat.jpg?signature="}s3cr3t'}
    workspace.give_pairs([{"key": "x", "value": "1"}, signed, {"key": "y", "value": "a: b"}])
    workspace.run_well("catalogue")
    assert list(workspace.insights()) == ["x", "y", "catalogued", "bytes"]
