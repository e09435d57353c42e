"""What a run shows on screen."""

import logging

from refarch.pipeline.progress import Progress


def test_progress_shows_what_is_logged_unless_logging_is_set_up(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    for shown in (True, False):
        with Progress(shown):
            logging.getLogger("refarch_task.files").info("[3] of 5 texts were cut")
            logging.getLogger("other").info("not this")
            logging.getLogger("other").warning("but this")
        said = capsys.readouterr().err
        assert ("[3] of 5 texts were cut" in said) == shown
        assert "not this" not in said
        assert "but this" in said  # where nothing is shown, by logging itself
    assert logging.root.level == logging.WARNING
    assert not logging.root.handlers
    monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])
    with Progress(True):
        logging.getLogger("refarch_task.files").warning("shown by whoever set it up")
    assert "whoever" not in capsys.readouterr().err
