"""Names that are near one that is not known."""

from graceful_forgetting.runtime.nearest import did_you_mean

KNOWN = ("arc_easy", "arc_hard", "gsm8k")


def test_the_nearest_name_is_given_or_what_is_said_otherwise():
    assert did_you_mean("gsm8", KNOWN) == "did you mean 'gsm8k'? "
    assert did_you_mean("zzzz", KNOWN) == ""
    assert did_you_mean("zzzz", KNOWN, "there are three") == "there are three"


def test_several_names_may_be_near():
    assert did_you_mean("arc_eard", KNOWN, most=3) == "did you mean 'arc_hard' or 'arc_easy'? "
