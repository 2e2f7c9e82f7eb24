//! The HTTP endpoints over real listeners, on the embedded twins.

mod admin;
mod allowance;
mod cloudevents;
mod dead_letters;
mod inbox;
mod outcomes;
mod pages;
mod publish;
mod removal;
mod rig;
mod schedules;
mod users;
