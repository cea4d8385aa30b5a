"""What happens in a rendered clip, said the way an annotator would."""

from __future__ import annotations

from pipelines.studio.motion.script import Script

_GARMENT = {
    "t_shirt": "T-shirt",
    "long_sleeve": "top",
    "collared_shirt": "shirt",
    "zip_jacket": "jacket",
    "dress": "dress",
}


def sentence(script: Script, garment: str) -> str:
    """One sentence for the action of a script.

    Raises:
        ValueError: The script has no action.
    """
    thing, hand = _GARMENT[garment], f"the {script.side} hand"
    back = script.backwards
    match script.action:
        case "operate_zipper":
            return f"{hand} zips the {thing} {'up' if back else 'down'}"
        case "adjust_hem":
            return f"{'both hands lift' if script.both else f'{hand} lifts'} the hem of the {thing}"
        case "stretch_fabric":
            return f"{hand} pinches the front of the {thing} and pulls it away from the body"
        case "adjust_collar":
            return f"{hand} turns the collar of the {thing} {'down' if back else 'up'}"
        case "roll_sleeve":
            return f"{hand} rolls the other sleeve of the {thing} {'down' if back else 'up'}"
        case "other":
            return f"{hand} rubs over the front of the {thing} with {'the fist' if script.fist else 'a flat palm'}"
    raise ValueError(f"a {script.performance} clip without an action has nothing to say")
