//! Wiring: builds the rooms from a `Config`, starts and stops them.
