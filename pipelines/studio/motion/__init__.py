"""What people do in the studio: plans drawn at random, and their performance frame by frame."""

from pipelines.studio.motion.moment import Moment, Touch
from pipelines.studio.motion.perform import Performer
from pipelines.studio.motion.script import ACTIONS_OF, Script, sample_script

__all__ = ["ACTIONS_OF", "Moment", "Performer", "Script", "Touch", "sample_script"]
