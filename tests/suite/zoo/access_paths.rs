//! The access paths to one origin: directly, through larder where a route stores responses (miss, hit, hit
//! after a restart, revalidated), and through larder where no route matches.

use std::collections::HashMap;
use std::time::Duration;

use crate::larder_under_test::Larder;
use crate::real_origin::{HOST, RealOrigin};
use crate::strict_response::{Fault, ReceivedResponse};
use crate::tls_client::TlsClient;
use crate::tls_origin::TestCa;
use crate::zoo::access_path::{AccessPath, OriginProtocol};
use crate::zoo::caller::{Caller, Dial, protocol};
use crate::zoo::cases::{self, Case, ETAG, Expect, MODIFIED, Version};
use crate::zoo::compare::{Source, differences};

/// Longer than the freshness lifetime of the route.
const PAST_TTL: Duration = Duration::from_secs(61);

/// A request with its fields filled in, and the origin's responses to it.
struct Baseline {
    case: Case,
    fields: Vec<(&'static str, String)>,
    direct: ReceivedResponse,
    whole: ReceivedResponse,
    /// The origin's status for a client that already has the response.
    if_unchanged: Option<u16>,
}

/// The results.
pub struct Tally {
    pub exchanges: usize,
    pub differences: Vec<String>,
    pub holes: Vec<String>,
}

/// One origin, and the results of all access paths to it.
pub struct PathRunner<'a> {
    origin: &'a RealOrigin,
    authority: &'a TestCa,
    speaks: OriginProtocol,
    store: tempfile::TempDir,
    tally: Tally,
}

/// Runs all cases on all access paths.
pub async fn run_all(origin: &RealOrigin, authority: &TestCa, speaks: OriginProtocol) -> Tally {
    let tally = Tally { exchanges: 0, differences: Vec::new(), holes: Vec::new() };
    let store = tempfile::tempdir().expect("a directory");
    let mut ways = PathRunner { origin, authority, speaks, store, tally };
    let baselines = ways.collect_baselines().await;
    let larder = ways.larder(Duration::ZERO).await;
    ways.run(&larder, &baselines, &[AccessPath::Miss, AccessPath::Hit, AccessPath::Passed]).await;
    ways.check_idle_close(&larder, &baselines).await;
    larder.server.stop().await;
    let larder = ways.larder(Duration::ZERO).await;
    ways.run(&larder, &baselines, &[AccessPath::Restarted]).await;
    larder.clock.advance(PAST_TTL);
    ways.run(&larder, &baselines, &[AccessPath::Revalidated, AccessPath::HitAgain]).await;
    larder.server.stop().await;
    let larder = ways.larder(PAST_TTL).await;
    ways.run(&larder, &baselines, &[AccessPath::RestartedAgain]).await;
    larder.server.stop().await;
    ways.tally
}

impl PathRunner<'_> {
    fn direct(&self) -> Caller {
        let version = self.speaks.version();
        match self.speaks {
            OriginProtocol::Plain => Caller::new(Dial::Origin(self.origin.plain), version),
            OriginProtocol::Tls | OriginProtocol::H2 => {
                Caller::for_tls_origin(self.origin.tls, self.authority, version)
            }
        }
    }

    /// Sends every request to the origin directly, twice. A case that the origin cannot send is a hole.
    async fn collect_baselines(&mut self) -> Vec<Baseline> {
        let mut caller = self.direct();
        let mut wholes: HashMap<String, ReceivedResponse> = HashMap::new();
        let mut baselines = Vec::new();
        let version = self.speaks.version();
        let cases = cases::all();
        for case in cases.into_iter().filter(|c| c.only.is_none_or(|only| only == version)) {
            if !wholes.contains_key(&case.path) && case.expect != Expect::Cut {
                let mut whole = self.exchange(&mut caller, "GET", &case.path, &plain(&case)).await;
                if whole.is_err() {
                    // The origin may just have closed the connection because it was idle.
                    caller = self.direct();
                    whole = self.exchange(&mut caller, "GET", &case.path, &plain(&case)).await;
                }
                let Ok(whole) = whole else {
                    self.tally.holes.push(case.name);
                    continue;
                };
                wholes.insert(case.path.clone(), whole);
            }
            let whole = wholes.get(&case.path);
            let fields = filled(&case, whole);
            let first = self.exchange(&mut caller, case.method, &case.path, &fields).await;
            let Some(direct) = first.ok().filter(|first| (case.shows)(first)) else {
                self.tally.holes.push(case.name);
                continue;
            };
            let whole = whole.unwrap_or(&direct).clone();
            let again = self.exchange(&mut caller, case.method, &case.path, &fields).await;
            let unsteady = differences(&case, &direct, &whole, &again, Source::Origin);
            assert_eq!(unsteady, Vec::<String>::new(), "{}: two direct responses differ", case.name);
            let if_unchanged = self.if_unchanged(&mut caller, &case, &fields, &direct).await;
            baselines.push(Baseline { case, fields, direct, whole, if_unchanged });
        }
        baselines
    }

    async fn if_unchanged(
        &mut self,
        caller: &mut Caller,
        case: &Case,
        fields: &[(&'static str, String)],
        direct: &ReceivedResponse,
    ) -> Option<u16> {
        let etag = direct.field("etag").filter(|_| case.expect == Expect::Stored)?;
        let mut fields = fields.to_vec();
        fields.push(("If-None-Match", etag.to_owned()));
        let answer = self.exchange(caller, case.method, &case.path, &fields).await;
        Some(answer.expect("a response").status)
    }

    async fn exchange(
        &mut self,
        caller: &mut Caller,
        method: &str,
        path: &str,
        fields: &[(&'static str, String)],
    ) -> Result<ReceivedResponse, Fault> {
        self.tally.exchanges += 1;
        caller.ask(method, path, fields).await
    }

    /// A larder on this store, with its clock `ahead` of the time.
    async fn larder(&self, ahead: Duration) -> Larder {
        let store = self.store.path().display();
        let http2 = self.speaks == OriginProtocol::H2;
        let (addr, tls) = match self.speaks {
            OriginProtocol::Plain => (self.origin.plain, String::new()),
            OriginProtocol::Tls | OriginProtocol::H2 => {
                let root = self.authority.root();
                let root = root.display();
                let tls = format!("tls: {{ extra_roots: ['{root}'], http2: {http2} }}");
                (self.origin.tls, format!("upstreams: {{ up: {{ hosts: [{HOST}], {tls} }} }}\n"))
            }
        };
        let larder = Larder::bare(&format!(
            "resolve: {{ {HOST}: '{addr}' }}\n{tls}store: {{ path: '{store}', disk: 512MiB }}\n\
             routes:\n  - {{ name: kept, match: {{ host: {HOST}, query: {{ kept: '*' }} }}, ttl: 1m }}\n"
        ))
        .await;
        larder.clock.advance(ahead);
        larder
    }

    fn through(&self, larder: &Larder, version: Version) -> Caller {
        let dial = match self.speaks {
            OriginProtocol::Plain => Dial::Larder(larder.addr()),
            OriginProtocol::Tls | OriginProtocol::H2 => {
                Dial::LarderTls(Box::new(TlsClient::for_larder(larder, &[protocol(version)])))
            }
        };
        Caller::new(dial, version)
    }

    async fn run(&mut self, larder: &Larder, baselines: &[Baseline], ways: &[AccessPath]) {
        for version in self.speaks.clients() {
            let mut caller = self.through(larder, *version);
            for way in ways {
                for baseline in baselines {
                    let is_first = version == &self.speaks.version();
                    if way.includes(&baseline.case, is_first) {
                        self.compare(&mut caller, baseline, *way, *version).await;
                    }
                }
            }
        }
    }

    /// Sends one request through larder and compares the response with the origin's.
    async fn compare(&mut self, caller: &mut Caller, baseline: &Baseline, way: AccessPath, version: Version) {
        let Baseline { case, fields, direct, whole, .. } = baseline;
        let path = way.path(case, version);
        let through = self.exchange(caller, case.method, &path, fields).await;
        let mut found = differences(case, direct, whole, &through, way.source(case));
        if let Ok(through) = &through
            && found.is_empty()
        {
            let cache_status = through.cache_status();
            found.extend(way.contradiction(case, baseline.if_unchanged, cache_status));
        }
        if case.expect == Expect::Cut && way == AccessPath::Hit {
            let mut fields = fields.clone();
            fields.push(("Cache-Control", "only-if-cached".into()));
            let kept = self.exchange(caller, case.method, &path, &fields).await;
            if !kept.as_ref().is_ok_and(|kept| kept.status == 504) {
                found.push("a cut body is stored".into());
            }
        }
        for found in found {
            let name = &case.name;
            self.tally.differences.push(format!("{name}, {way:?}, {version:?} client: {found}"));
        }
    }

    /// Checks that no request fails because the origin closes idle connections.
    async fn check_idle_close(&mut self, larder: &Larder, baselines: &[Baseline]) {
        let mut direct = self.direct();
        let baseline = baselines.iter().find(|baseline| baseline.case.name == "sized-16384");
        let baseline = baseline.expect("every origin can send it");
        for round in 0..3 {
            self.idle(larder, baseline, &format!("before-{round}")).await;
            // The direct connection is younger than those of larder, so the origin closes those first.
            let last = self.exchange(&mut direct, "GET", &baseline.case.path, &[]).await;
            if last.is_err() || !direct.is_closed_when_idle().await {
                self.tally.holes.push("idle-close".into());
                return;
            }
            self.idle(larder, baseline, &format!("after-{round}")).await;
        }
    }

    /// Sends one cached and one passed request.
    async fn idle(&mut self, larder: &Larder, baseline: &Baseline, name: &str) {
        let Baseline { case, direct, whole, .. } = baseline;
        let version = self.speaks.version();
        for route in ["kept", "passed"] {
            let mut caller = self.through(larder, version);
            let path = format!("{}?{route}=idle-{name}", case.path);
            let through = self.exchange(&mut caller, "GET", &path, &[]).await;
            for found in differences(case, direct, whole, &through, Source::Origin) {
                self.tally.differences.push(format!("idle, {name}, {route}: {found}"));
            }
        }
    }
}

/// The fields of an unconditional request for the whole response.
fn plain(case: &Case) -> Vec<(&'static str, String)> {
    let coding = case.fields.iter().filter(|(name, _)| *name == "Accept-Encoding");
    coding.map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The fields of a request, with the validators of the response that its client already has.
fn filled(case: &Case, whole: Option<&ReceivedResponse>) -> Vec<(&'static str, String)> {
    let validator = |name| whole.and_then(|w| w.field(name)).unwrap_or("\"none\"").to_owned();
    let value = |value: &str| match value {
        ETAG => validator("etag"),
        MODIFIED => validator("last-modified"),
        other => other.to_owned(),
    };
    case.fields.iter().map(|(name, text)| (*name, value(text))).collect()
}
