//! The system tests, one binary: a real larder on port 0 against a scripted origin, asserting what
//! both sides saw.

#[path = "../support/client.rs"]
mod client;
#[path = "../support/larder.rs"]
mod larder_under_test;
#[path = "../support/origin.rs"]
mod origin;
#[path = "../support/process.rs"]
mod process;

mod first_day;
mod parser;
mod admin;
mod cli;
mod clients;
mod logs;
