//! Two apps that nobody changed, one in Python and one in Node, and an API that they reach by HTTPS:
//! how often the API is called without larder, and how often through `larder exec`.
//!
//! `cargo build --release && cargo run --release --example https_exec`, with `-- --quick` for fewer
//! calls. Everything runs on loopback: a fake Discord with TLS and a root of its own in front of it,
//! larder and the apps as processes of their own. Both apps ask for the same URLs either way.
//!
//! Also compares certificates: the API that a route names is seen with one of larder's, a host that
//! nobody named with its own. Ends with 1 if a figure is missed.
#![expect(clippy::print_stdout, reason = "an example prints what it found")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "the clients here are others: only its Failure is used")]
mod client;
#[path = "https_exec/figures.rs"]
mod figures;
#[path = "support/program.rs"]
mod program;
#[path = "https_exec/scene.rs"]
mod scene;
#[path = "support/tls.rs"]
mod tls;

use std::process::ExitCode;

use crate::client::Failure;
use crate::figures::{Figures, Saved};
use crate::scene::{App, Scene};

/// How many calls an app makes: five a visit.
#[derive(Clone, Copy)]
struct Story {
    users: usize,
    visits: usize,
}

impl Story {
    const FULL: Self = Self { users: 20, visits: 10 };
    const QUICK: Self = Self { users: 5, visits: 5 };
}

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    match compare(if quick { Story::QUICK } else { Story::FULL }).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("https_exec: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs both apps both ways, prints the table, and says whether all figures were reached.
async fn compare(story: Story) -> Result<bool, Failure> {
    let scene = Scene::start().await?;
    let mut apps = Vec::new();
    for app in [App::PYTHON, App::NODE] {
        let before = scene.calls_of(app, story, false).await?;
        let after = scene.calls_of(app, story, true).await?;
        apps.push(Saved { app: app.name, before, after });
    }
    let presented = scene.presented().await?;
    scene.stop().await;

    let figures = Figures { asked: story.users * story.visits * 5, apps, presented };
    figures.print();
    let missed = figures.missed();
    for figure in &missed {
        println!("MISSED: {figure}");
    }
    println!("{}", figures.json(missed.is_empty()));
    Ok(missed.is_empty())
}
