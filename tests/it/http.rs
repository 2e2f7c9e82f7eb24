//! The HTTP endpoints over real listeners, on the embedded twins.

mod admin;
mod pages;
mod publish;
mod rig;
mod users;
