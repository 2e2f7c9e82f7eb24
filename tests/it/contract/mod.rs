//! The contracts: one suite each, run on the embedded twin and on the real thing.

mod presence;
