//! Tests of Ostler from outside, with real processes.
