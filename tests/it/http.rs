//! The HTTP endpoints over real listeners, on the embedded twins.

mod admin;
mod dead_letters;
mod pages;
mod publish;
mod rig;
mod users;
