"""ORION, a 7B vision-language-action model of driving: images and ego state to planning and scene tokens."""
