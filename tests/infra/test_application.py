"""The application as it is wired: what only the composition root can know."""

from __future__ import annotations

import pytest

from tests.fix_api import ApiCaller


@pytest.mark.parametrize("path", ["identity", "trial-balance", "vouchers", "parked", "positions"])
def test_the_books_of_a_book_nobody_opened_are_not_found(api: ApiCaller, path: str) -> None:
    # a sheet without figures would tie, and its identity would hold
    headers = {"Authorization": f"Bearer {api.key}", "Daybook-Book": "nobodys"}
    answer = api.http.get(f"/v1/{path}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "nobodys" in answer.json()["detail"]
