"""The tables of run.db. Whatever changes them raises the version: an older run is refused, not misread."""

from __future__ import annotations

SCHEMA_VERSION = 8
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, state TEXT NOT NULL CHECK (state IN ('open', 'frozen', 'committed')),
    draw INTEGER NOT NULL DEFAULT 0,
    groups TEXT NOT NULL, started TEXT, weights TEXT, frozen TEXT, digest TEXT, delta TEXT, merged TEXT, optimizer TEXT,
    bias REAL, opened_at REAL NOT NULL, frozen_at REAL, committed_at REAL);
CREATE TABLE updates (
    round INTEGER NOT NULL REFERENCES rounds, client TEXT NOT NULL, started INTEGER NOT NULL, worker TEXT NOT NULL,
    digest TEXT NOT NULL,
    num_examples INTEGER NOT NULL, num_tokens INTEGER NOT NULL, num_steps INTEGER NOT NULL, train_loss REAL NOT NULL,
    train_seconds REAL NOT NULL, norm REAL NOT NULL, bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL,
    state_lost INTEGER NOT NULL, assigned_at REAL, offered_at REAL, received_at REAL NOT NULL,
    PRIMARY KEY (round, client));
CREATE INDEX updates_by_client ON updates (client, round);
CREATE TABLE evaluations (
    version INTEGER NOT NULL, unit TEXT NOT NULL, worker TEXT NOT NULL, loss_sum REAL NOT NULL,
    num_tokens INTEGER NOT NULL, num_examples INTEGER NOT NULL, seconds REAL NOT NULL,
    assigned_at REAL, received_at REAL NOT NULL, PRIMARY KEY (version, unit));
CREATE TABLE generations (
    version INTEGER NOT NULL, position INTEGER NOT NULL, prompt TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (version, position));
CREATE TABLE notes (at REAL NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL);
"""
