"""The storage of Dagster in the profile `shared`: PostgreSQL, at the address that `CAPTCHA_DATABASE` gives.

`dagster.yaml` names this class: it takes `postgresql://...` as it is written everywhere else, for which
SQLAlchemy would load another driver than the one that is installed.
"""

import logging
from typing import Any

from dagster_postgres import DagsterPostgresStorage
from typing_extensions import override


def _in_one_line(record: logging.LogRecord) -> bool:
    """Shorten Dagster's message of a database that does not answer, which repeats an error of many lines."""
    if str(record.msg).startswith("Retrying failed database connection"):
        record.msg, record.args = "the database does not answer: trying again", ()
    return True


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's own storage on PostgreSQL, with psycopg2 as its driver."""

    @classmethod
    @override
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "PostgresStorage":
        logging.getLogger().addFilter(_in_one_line)
        address = config_value["postgres_url"].replace("postgresql://", "postgresql+psycopg2://", 1)
        return cls(address, config_value.get("should_autocreate_tables", True), inst_data)
