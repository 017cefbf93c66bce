"""A way to damage a graph, and to mend it after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def cut() -> Iterator[Callable[[object, object], None]]:
    """Return a function that deletes the link between two nodes in the database, as no AiiDA command would."""
    from aiida.manage import get_manager
    from aiida.orm.entities import EntityTypes
    from aiida.storage.sqlite_zip.models import DbLink

    storage = get_manager().get_profile_storage()
    lost = []

    def cut(source, target) -> None:
        session = storage.get_session()
        (link,) = session.query(DbLink).filter_by(input_id=source.pk, output_id=target.pk).all()
        lost.append({'input_id': source.pk, 'output_id': target.pk, 'label': link.label, 'type': link.type})
        session.delete(link)
        session.commit()

    yield cut
    with storage.transaction():
        storage.bulk_insert(EntityTypes.LINK, lost, allow_defaults=True)
