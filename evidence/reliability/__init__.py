"""Each promise of reliability put to the test by doing the damage; the figures are archived beside the scripts."""
