"""How well a judge of interactions does: its verdicts on rendered cases whose truth is known."""
