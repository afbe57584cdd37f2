//! A running larder, asked over its admin API.
//!
//! Owns: how a verb finds it, with which token it asks, whose it may be, and what is said when nobody
//! answers.
//! Never touches: what is asked.

mod connector;
pub(super) mod entry;
pub(super) mod port_owner;
pub(super) mod table;
mod target;

use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;
use ureq::unversioned::resolver::DefaultResolver;

use crate::cli::admin_client::connector::VerifyingConnector;
use crate::cli::admin_client::port_owner::{CONNECT, Trusted, stranger};
pub(super) use crate::cli::admin_client::target::{TargetArgs, reached};
use crate::cli::{Context, ExitStatus};
use crate::config::token::Token;

/// A larder that may answer.
pub(super) struct AdminClient {
    /// `127.0.0.1:9901`
    authority: String,
    token: Option<Token>,
    /// The users whose larder is sent anything.
    trusted: Trusted,
    /// What went wrong while looking for it, told when it does not answer as hoped.
    doubt: Option<String>,
}

/// Why a verb did not get its answer.
#[derive(Debug)]
pub(super) struct AdminClientError {
    pub(super) exit: ExitStatus,
    /// For people: one line, and a report where there is one.
    pub(super) said: String,
    /// What larder answered, for programs.
    pub(super) answer: Option<Value>,
}

impl AdminClientError {
    pub(super) fn new(exit: ExitStatus, said: impl Into<String>) -> Self {
        Self { exit, said: said.into(), answer: None }
    }
}

impl AdminClient {
    /// `GET path`
    pub(super) fn get(&self, path: &str) -> Result<Value, AdminClientError> {
        self.ask("GET", path, None)
    }

    /// `POST path`
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, AdminClientError> {
        self.ask("POST", path, Some(body))
    }

    /// `PUT path`
    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, AdminClientError> {
        self.ask("PUT", path, Some(body))
    }

    /// `GET path`, where the answer is text; `None`: there is nothing of the kind.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, AdminClientError> {
        let answered = self.agent().get(self.url(path)).call();
        let mut response = answered.map_err(|error| self.silent(&error))?;
        let text = response.body_mut().with_config().limit(LONGEST).read_to_string();
        let text = text.map_err(|error| self.silent(&error))?;
        Ok(response.status().is_success().then_some(text))
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, AdminClientError> {
        let request = http::Request::builder().method(method).uri(self.url(path));
        let request = match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {}", token.reveal())),
            None => request,
        };
        let request = request.header("content-type", "application/json");
        let sent = match body {
            Some(body) => request.body(body.to_string()).map(|request| self.agent().run(request)),
            None => request.body(()).map(|request| self.agent().run(request)),
        };
        let mut response =
            sent.map_err(ureq::Error::from).flatten().map_err(|error| self.silent(&error))?;
        let text = response.body_mut().with_config().limit(LONGEST).read_to_string();
        let text = text.map_err(|error| self.silent(&error))?;
        let value = serde_json::from_str(&text).map_err(|_| self.stranger())?;
        if response.status().is_success() { Ok(value) } else { Err(self.refused(value)) }
    }

    /// Neither through a proxy, larder itself perhaps, nor anywhere else than asked.
    fn agent(&self) -> ureq::Agent {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            .build();
        ureq::Agent::with_parts(
            config,
            VerifyingConnector(self.trusted.clone()),
            DefaultResolver::default(),
        )
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }

    /// No larder answers, or a stranger would.
    fn silent(&self, error: &ureq::Error) -> AdminClientError {
        if let ureq::Error::Io(error) = error
            && let Some(stranger) = stranger(error)
        {
            return AdminClientError::new(
                ExitStatus::Failed,
                self.with_doubt(stranger.to_string()),
            );
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "the crate adds kinds of errors")]
        let why = match error {
            ureq::Error::Io(error) => error.kind().to_string(),
            ureq::Error::Timeout(_) => "timed out".to_owned(),
            ureq::Error::HostNotFound => "no such host".to_owned(),
            other => other.to_string(),
        };
        let said = format!(
            "no larder answers at {} ({why}): start one with `larder run`, or name its admin \
             listener with --admin or LARDER_ADMIN",
            self.authority
        );
        AdminClientError::new(ExitStatus::Unreachable, self.with_doubt(said))
    }

    /// Somebody else answers.
    fn stranger(&self) -> AdminClientError {
        let said = format!("what answers at {} is no larder's admin listener", self.authority);
        AdminClientError::new(ExitStatus::Unreachable, self.with_doubt(said))
    }

    fn refused(&self, answer: Value) -> AdminClientError {
        let problem = &answer["larder_error"];
        let Some(reason) = problem["reason"].as_str() else { return self.stranger() };
        let (report, why) = (problem["report"].as_str(), problem["why"].as_str());
        let said = match (problem["class"].as_str(), report, why) {
            (Some("token_required"), ..) => self.with_doubt(self.wants_a_token()),
            (_, Some(report), _) => format!("{reason}:\n{report}"),
            (_, None, Some(why)) => format!("{reason} ({why})"),
            (_, None, None) => reason.to_owned(),
        };
        AdminClientError { exit: ExitStatus::Failed, said, answer: Some(answer) }
    }

    fn wants_a_token(&self) -> String {
        let whose = if self.token.is_some() { "another token" } else { "a token" };
        format!(
            "the larder at {} asks for {whose}: give it with --token-file or LARDER_ADMIN_TOKEN, or \
             name its configuration with --config",
            self.authority
        )
    }

    fn with_doubt(&self, said: String) -> String {
        match &self.doubt {
            Some(doubt) => format!("{said}\n{doubt}"),
            None => said,
        }
    }
}

/// Ends a verb: prints its answer as JSON or by `print`, or says why there is none.
pub(super) fn print_result(
    verb: &str,
    json: bool,
    outcome: Result<Value, AdminClientError>,
    world: &mut Context<'_>,
    print: impl FnOnce(&Value, &mut dyn Write) -> io::Result<ExitStatus>,
) -> ExitStatus {
    let printed = match outcome {
        Ok(answer) if json => writeln!(world.out, "{answer:#}").map(|()| ExitStatus::Ok),
        Ok(answer) => print(&answer, world.out),
        Err(AdminClientError { exit, answer: Some(answer), .. }) if json => {
            writeln!(world.out, "{answer:#}").map(|()| exit)
        }
        Err(failure) => {
            let said = harmless(&failure.said);
            writeln!(world.err, "larder {verb}: {said}").map(|()| failure.exit)
        }
    };
    // Whoever reads the output has gone: there is nobody left to tell.
    printed.unwrap_or(ExitStatus::Failed)
}

/// Terminals act on control characters, and what is stored came from somewhere else: of them only
/// the line end is printed.
pub(super) fn harmless(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// A reload reads files, a purge waits for the disk.
const ANSWER: Duration = Duration::from_secs(60);
/// A page of entries with all their fields.
const LONGEST: u64 = 256 << 20;
