"""The marketplace's tables, as SQLAlchemy Core. Times are epoch seconds, money is text, documents are JSON text.

Ids are never given twice, not even after a delete: a renter may still hold the old one.

Column names that the public API also uses keep the API's spelling, so that rows read like the contract.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from kaalia.marketplace.db.types import Whole

metadata = MetaData()

settings = Table(
    "settings",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)
"""`epoch` (made once with the database), `signing_key` (PEM, sealed by file mode)."""

users = Table(
    "users",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("username", String, nullable=False, unique=True),
    Column("is_host", Boolean, nullable=False, default=False),
    Column("credit", String, nullable=False, default="0"),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String, nullable=False, default=""),
    Column("key_sha256", String, nullable=False, unique=True),
    Column("permissions", Text, nullable=True),
    Column("instance_id", Whole, nullable=True),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
"""`permissions`: JSON `{"api": {category: constraints}}`, null = everything. `instance_id`: an instance's own key."""

enrol_tokens = Table(
    "enrol_tokens",
    metadata,
    Column("token_sha256", String, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_by_machine_id", Whole, nullable=True),
)

machines = Table(
    "machines",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("public_key", String, nullable=False, unique=True),
    Column("fingerprint", String, nullable=False),
    Column("enrolled_at", Float, nullable=False),
    Column("revision", Whole, nullable=False, default=1),
    Column("report", Text, nullable=True),
    Column("listing", Text, nullable=True),
    Column("last_seen_at", Float, nullable=True),
    Column("online_s", Float, nullable=False, default=0.0),
    Column("observed_s", Float, nullable=False, default=0.0),
    Column("stream_id", String, nullable=True),
    Column("acked_seq", Whole, nullable=False, default=0),
    Column("applied_revision", Whole, nullable=False, default=0),
    Column("verification", String, nullable=False, default="unverified"),
    sqlite_autoincrement=True,
)
"""`report`: MachineReport JSON, `listing`: Listing JSON. `revision` grows with every change its daemon must see."""

closures = Table(
    "closures",
    metadata,
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True),
    Column("windows", Text, nullable=False),
    Column("cordon", Text, nullable=True),
)
"""When a machine takes no new contracts. `windows`: list of Window JSON, scheduled by the owner here; `cordon`: Cordon
JSON, placed by the owner on the machine and told by its daemon."""

asks = Table(
    "asks",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("num_gpus", Whole, nullable=False),
    Column("contract_id", Whole, nullable=True),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
"""One rentable slice each; `contract_id` is set while rented. A machine without a GPU has one ask of 0 GPUs."""

contracts = Table(
    "contracts",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("ask_id", Whole, nullable=False),
    Column("document", Text, nullable=False),
    Column("status", Text, nullable=True),
    Column("request", Text, nullable=False),
    Column("label", String, nullable=True),
    Column("template_id", Whole, nullable=True),
    Column("template_hash_id", String, nullable=True),
    Column("jupyter_token", String, nullable=False),
    Column("image_login", LargeBinary, nullable=True),
    Column("price_terms", Text, nullable=False),
    Column("start_date", Float, nullable=False),
    Column("ended_at", Float, nullable=True),
    Column("removed_at", Float, nullable=True),
    Column("idempotency_key", String, nullable=True, index=True),
    sqlite_autoincrement=True,
)
"""`document`: Contract JSON (what the daemon is told), `status`: its latest WorkloadStatus JSON, `request`: the merged
create request (runtype, env pairs, image ... as the API shows them), `price_terms`: the listing frozen at rental.
`ended_at`: the renter destroyed it; `removed_at`: the daemon proved it gone."""
Index("contracts_live", contracts.c.machine_id, contracts.c.removed_at)

templates = Table(
    "templates",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("hash_id", String, nullable=False, index=True),
    Column("creator_id", Whole, nullable=False, index=True),
    Column("document", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("count_created", Whole, nullable=False, default=0),
    Column("recent_create_date", Float, nullable=True),
    Column("deleted_at", Float, nullable=True),
    sqlite_autoincrement=True,
)

template_hashes = Table(
    "template_hashes",
    metadata,
    Column("hash_id", String, primary_key=True),
    Column("template_id", Whole, nullable=False),
    Column("document", Text, nullable=False),
)
"""Every version ever: an old hash goes on to resolve to the content it named."""

secrets = Table(
    "secrets",
    metadata,
    Column("user_id", Whole, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)

ssh_keys = Table(
    "ssh_keys",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("user_id", Whole, nullable=False, index=True),
    Column("public_key", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("deleted_at", Float, nullable=True),
    sqlite_autoincrement=True,
)

instance_keys = Table(
    "instance_keys",
    metadata,
    Column("contract_id", Whole, primary_key=True),
    Column("key_id", Whole, primary_key=True),
    Column("public_key", Text, nullable=False),
    Column("attached_at", Float, nullable=False),
)
"""Who may log in to an instance: a copy, as the account's keys were when it was rented or the key was attached.

`key_id` is of `ssh_keys`; a key that was only ever attached has a row there that is deleted from the beginning.
"""

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", String, primary_key=True),
    Column("machine_id", Whole, nullable=False, index=True),
    Column("document", Text, nullable=False),
    Column("result", Text, nullable=True),
    Column("created_at", Float, nullable=False),
)
"""One-shot requests; `result`: TaskResult JSON, served at the unguessable result URL until it is an hour old."""

volume_offers = Table(
    "volume_offers",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("size_gb", Whole, nullable=False),
    Column("price_per_gb_month", String, nullable=False),
    Column("end_at", Float, nullable=True),
    Column("is_listed", Boolean, nullable=False, default=True),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
"""One a machine at most. `size_gb`: as listed, rented or not; 0 with `is_listed`: the owner wants none."""

volumes = Table(
    "volumes",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("offer_id", Whole, nullable=False),
    Column("key", String, nullable=False),
    Column("name", String, nullable=True),
    Column("size_bytes", Whole, nullable=False),
    Column("copy_of", Whole, nullable=True),
    Column("price_per_gb_month", String, nullable=False),
    Column("status", Text, nullable=True),
    Column("start_date", Float, nullable=False),
    Column("end_at", Float, nullable=True),
    Column("ended_at", Float, nullable=True),
    Column("removed_at", Float, nullable=True),
    Column("idempotency_key", String, nullable=True, index=True),
    sqlite_autoincrement=True,
)
"""`status`: the machine's latest VolumeStatus JSON. `ended_at`: the renter deleted it; `removed_at`: the machine proved
it gone."""

charges = Table(
    "charges",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("contract_id", Whole, nullable=False),
    Column("machine_id", Whole, nullable=False, index=True),
    Column("user_id", Whole, nullable=False, index=True),
    Column("host_id", Whole, nullable=False, index=True),
    Column("meter", String, nullable=False),
    Column("quantity", Whole, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float, nullable=True),
    Column("amount", String, nullable=True),
    sqlite_autoincrement=True,
)
"""Times in which something was in use, as the machine's journal says. `user_id` pays, `host_id` earns.
`quantity`: GPUs or bytes. `ended_at` null: it goes on. `amount`: US dollars, written with the end. Of traffic:
the bytes that were charged."""
Index("charges_of_contract", charges.c.contract_id, charges.c.meter, charges.c.id)

rates = Table(
    "rates",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("contract_id", Whole, nullable=False, index=True),
    Column("valid_from", Float, nullable=False),
    Column("run_usd_per_hour", String, nullable=False),
    Column("disk_usd_per_gb_month", String, nullable=False),
    sqlite_autoincrement=True,
)
"""The prices of a contract, each until the next one."""

inet_rates = Table(
    "inet_rates",
    metadata,
    Column("rate_id", Whole, primary_key=True, autoincrement=False),
    Column("up_usd_per_gb", String, nullable=False),
    Column("down_usd_per_gb", String, nullable=False),
)
"""What traffic costs by a row of `rates`; without one, as the contract's terms say."""

inet_counts = Table(
    "inet_counts",
    metadata,
    Column("contract_id", Whole, primary_key=True, autoincrement=False),
    Column("meter", String, primary_key=True),
    Column("total", Whole, nullable=False),
    Column("said_at", Float, nullable=False),
    Column("counted_until", Float, nullable=False),
)
"""A machine's last word on the bytes of a contract. `said_at` by its own clock, `counted_until` as it is believed."""

invoices = Table(
    "invoices",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("user_id", Whole, nullable=False, index=True),
    Column("when", Float, nullable=False),
    Column("paid_on", Float, nullable=True),
    Column("amount", String, nullable=False),
    Column("type", String, nullable=False),
    Column("service", String, nullable=False),
    Column("description", String, nullable=False, default=""),
    sqlite_autoincrement=True,
)
"""What went to (positive) or from (negative) a user's credit by other ways than charges. `type`: credit, reserved,
refund, transfer, payout. `users.credit` holds their sum."""

deposits = Table(
    "deposits",
    metadata,
    Column("contract_id", Whole, primary_key=True),
    Column("document", Text, nullable=False),
    Column("prepaid_at", Float, nullable=False),
)
"""Reserved contracts: `document` is a Reservation JSON. The money stays in the user's credit, from which the use is
charged; what of it is locked is worked out."""

prepayments = Table(
    "prepayments",
    metadata,
    Column("contract_id", Whole, primary_key=True),
    Column("amount", String, nullable=False),
    Column("requested_at", Float, nullable=False),
)
"""The newest payment into each deposit, by which its repetition is known."""

forfeits = Table(
    "forfeits",
    metadata,
    Column("contract_id", Whole, primary_key=True),
    Column("machine_id", Whole, nullable=False),
    Column("user_id", Whole, nullable=False),
    Column("host_id", Whole, nullable=False, index=True),
    Column("amount", String, nullable=False),
    Column("forfeited_at", Float, nullable=False),
)
"""What early ends of reserved contracts cost: taken from the credit of `user_id` (an invoice says so), earned by
`host_id`."""

price_increases = Table(
    "price_increases",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("contract_id", ForeignKey("contracts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("terms", Text, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("decided_at", Float, nullable=True),
    Column("applies_at", Float, nullable=True),
    sqlite_autoincrement=True,
)
"""Dearer listings (`terms`: Listing JSON) as put to renters. `state`: pending, rejected, accepted (the prices hold from
`applies_at` on), applied (they are written into the contract)."""

deleted_machines = Table(
    "deleted_machines",
    metadata,
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True),
    Column("deleted_at", Float, nullable=False),
)
"""Machines that their owners deleted. Their rows stay: tombstones may still have to be proven, and the books
name them."""

machine_reports = Table(
    "machine_reports",
    metadata,
    Column("id", Whole, primary_key=True, autoincrement=True),
    Column("machine_id", ForeignKey("machines.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("problem", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)
"""What renters say of machines."""
