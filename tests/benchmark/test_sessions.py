from selfcell.benchmark.sessions import sessions_of, with_session

ONE = {"when": "2026-01-01", "command": "selfcell a", "versions": {"torch": "2.1"}, "machine": {}, "seconds": 3.0}


def test_sessions_are_kept_and_equal_ones_in_a_row_are_one():
    other = {**ONE, "versions": {"torch": "2.2"}, "when": "2026-01-03"}
    sessions = []
    for session in (ONE, {**ONE, "when": "2026-01-02", "seconds": 0.5}, other, ONE):
        sessions = with_session(sessions, session)
    assert [one["times"] for one in sessions] == [2, 1, 1]
    assert [one["versions"]["torch"] for one in sessions] == ["2.1", "2.2", "2.1"]
    assert (sessions[0]["when"], sessions[0]["seconds"]) == ("2026-01-01", 3.5)


def test_what_was_written_before_tells_of_its_last_session():
    old = {name: ONE[name] for name in ("command", "versions", "machine")} | {"seconds_of_this_session": 7.0}
    (session,) = sessions_of(old)
    assert session["when"] is None and session["seconds"] == 7.0 and session["command"] == "selfcell a"
    assert with_session([session], ONE)[0]["seconds"] == 10.0
    assert sessions_of({}) == [] and sessions_of({"sessions": [session], **old}) == [session]
