//! The client of a running larder's admin API.
//!
//! Owns: how a verb finds the admin listener, the token that it sends, the users that it trusts, and the
//! message when no larder responds. Never touches: the content of requests.

mod connector;
pub(super) mod entry;
pub(super) mod port_owner;
pub(super) mod table;
mod target;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::unversioned::resolver::DefaultResolver;

use crate::cli::admin_client::connector::VerifyingConnector;
use crate::cli::admin_client::port_owner::{CONNECT_TIMEOUT, TrustedUsers, untrusted_listener};
pub(super) use crate::cli::admin_client::target::{TargetArgs, connect_address};
use crate::cli::{Context, ExitStatus};
use crate::config::token::Token;

/// A client for one admin listener.
pub(super) struct AdminClient {
    /// `127.0.0.1:9901`
    authority: String,
    token: Option<Token>,
    /// The Unix socket of a private larder, instead of the address.
    socket: Option<PathBuf>,
    /// The users to whose processes requests may be sent.
    trusted: TrustedUsers,
    /// A problem of the configuration that named the listener. It is added to error messages.
    config_problem: Option<String>,
}

/// The reason why a verb got no successful response.
#[derive(Debug)]
pub(super) struct AdminClientError {
    pub(super) exit: ExitStatus,
    /// The message for people: one line, and a report if there is one.
    pub(super) message: String,
    /// The body of larder's error response, for programs.
    pub(super) response: Option<Value>,
}

impl AdminClientError {
    pub(super) fn new(exit: ExitStatus, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), response: None }
    }
}

impl AdminClient {
    /// `GET path`
    pub(super) fn get(&self, path: &str) -> Result<Value, AdminClientError> {
        self.send("GET", path, None)
    }

    /// `POST path`
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, AdminClientError> {
        self.send("POST", path, Some(body))
    }

    /// `PUT path`
    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, AdminClientError> {
        self.send("PUT", path, Some(body))
    }

    /// `GET path` with a response of text; `None` if its status is not a success.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, AdminClientError> {
        let result = self.agent().get(self.url(path)).call();
        let mut response = result.map_err(|error| self.unreachable_error(&error))?;
        let text = response.body_mut().with_config().limit(MAX_RESPONSE).read_to_string();
        let text = text.map_err(|error| self.unreachable_error(&error))?;
        Ok(response.status().is_success().then_some(text))
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, AdminClientError> {
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
            sent.map_err(ureq::Error::from).flatten().map_err(|error| self.unreachable_error(&error))?;
        let text = response.body_mut().with_config().limit(MAX_RESPONSE).read_to_string();
        let text = text.map_err(|error| self.unreachable_error(&error))?;
        let value = serde_json::from_str(&text).map_err(|_| self.not_larder_error())?;
        if response.status().is_success() { Ok(value) } else { Err(self.error_response(value)) }
    }

    /// An agent that uses no proxy (it could be larder itself) and follows no redirects.
    fn agent(&self) -> ureq::Agent {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(RESPONSE_TIMEOUT))
            .build();
        let connector = VerifyingConnector { trusted: self.trusted.clone(), socket: self.socket.clone() };
        ureq::Agent::with_parts(config, connector, DefaultResolver::default())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }

    /// The error for a failed request: no larder responds, or the listener belongs to an untrusted user.
    fn unreachable_error(&self, error: &ureq::Error) -> AdminClientError {
        if let ureq::Error::Io(error) = error
            && let Some(untrusted) = untrusted_listener(error)
        {
            return AdminClientError::new(
                ExitStatus::Failed,
                self.with_config_problem(untrusted.to_string()),
            );
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "the crate adds kinds of errors")]
        let reason = match error {
            ureq::Error::Io(error) => error.kind().to_string(),
            ureq::Error::Timeout(_) => "timed out".to_owned(),
            ureq::Error::HostNotFound => "no such host".to_owned(),
            other => other.to_string(),
        };
        let message = format!(
            "no larder responds at {} ({reason}): start one with `larder run`, or specify its \
             admin listener with --admin or LARDER_ADMIN",
            self.authority
        );
        AdminClientError::new(ExitStatus::Unreachable, self.with_config_problem(message))
    }

    /// The error for a response that is not from a larder admin listener.
    fn not_larder_error(&self) -> AdminClientError {
        let message = format!("the service at {} is not a larder admin listener", self.authority);
        AdminClientError::new(ExitStatus::Unreachable, self.with_config_problem(message))
    }

    fn error_response(&self, response: Value) -> AdminClientError {
        let problem = &response["larder_error"];
        let Some(reason) = problem["reason"].as_str() else { return self.not_larder_error() };
        let (report, detail) = (problem["report"].as_str(), problem["why"].as_str());
        let message = match (problem["class"].as_str(), report, detail) {
            (Some("token_required"), ..) => self.with_config_problem(self.token_required_message()),
            (_, Some(report), _) => format!("{reason}:\n{report}"),
            (_, None, Some(detail)) => format!("{reason} ({detail})"),
            (_, None, None) => reason.to_owned(),
        };
        AdminClientError { exit: ExitStatus::Failed, message, response: Some(response) }
    }

    fn token_required_message(&self) -> String {
        let required = if self.token.is_some() { "another token" } else { "a token" };
        format!(
            "the larder at {} requires {required}: pass it with --token-file or \
             LARDER_ADMIN_TOKEN, or specify its configuration with --config",
            self.authority
        )
    }

    fn with_config_problem(&self, message: String) -> String {
        match &self.config_problem {
            Some(problem) => format!("{message}\n{problem}"),
            None => message,
        }
    }
}

/// The arguments of each verb that asks a running larder.
#[derive(Debug, clap::Args)]
pub(super) struct AdminArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

impl AdminArgs {
    /// The selected larder: a private one of `larder exec`, or one with an admin listener.
    fn larder(&self, context: &mut Context<'_>) -> Result<AdminClient, AdminClientError> {
        if let Some(private) = self.target.private_larder(None, &context.env) {
            return Ok(private);
        }
        let is_specified = self.target.is_specified(&context.env);
        let found = if is_specified { None } else { context.search_config() };
        let private = found.as_deref().and_then(|file| self.target.private_larder(Some(file), &context.env));
        private.map_or_else(|| self.target.find_with(found.as_deref(), &context.env), Ok)
    }

    /// Runs `larder VERB`: sends `request` to the selected larder, and prints the response as JSON or by
    /// `print`, or prints the error.
    pub(super) fn run(
        &self,
        verb: &str,
        context: &mut Context<'_>,
        request: impl FnOnce(&AdminClient) -> Result<Value, AdminClientError>,
        print: impl FnOnce(&Value, &mut dyn Write) -> io::Result<()>,
    ) -> ExitStatus {
        let outcome = self.larder(context).and_then(|larder| request(&larder));
        let (printed, exit) = match outcome {
            Ok(response) if self.json => (writeln!(context.out, "{response:#}"), ExitStatus::Ok),
            Ok(response) => (print(&response, context.out), ExitStatus::Ok),
            Err(AdminClientError { exit, response: Some(response), .. }) if self.json => {
                (writeln!(context.out, "{response:#}"), exit)
            }
            Err(AdminClientError { exit, message, .. }) => {
                (writeln!(context.err, "larder {verb}: {}", sanitize(&message)), exit)
            }
        };
        // If the output is closed, only the exit code reports the failure.
        printed.map_or(ExitStatus::Failed, |()| exit)
    }
}

/// The members of the list `name` of a response; those of another form are left out.
pub(super) fn list<T: DeserializeOwned>(response: &Value, name: &str) -> Vec<T> {
    let members = response[name].as_array().into_iter().flatten();
    members.filter_map(|member| T::deserialize(member).ok()).collect()
}

/// Replaces all control characters except the line end: terminals act on them, and stored data comes from
/// other hosts.
pub(super) fn sanitize(text: &str) -> String {
    let sanitized = |c: char| match c {
        '\n' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(sanitized).collect()
}

/// The longest time for one request: a reload reads files, a purge waits for the disk.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest response in bytes: a page of entries with all their fields.
const MAX_RESPONSE: u64 = 256 << 20;
