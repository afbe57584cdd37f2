//! The ways to one origin: directly, through larder where a route keeps responses (miss, hit, hit after
//! a restart, revalidated), and through larder where no route matches.

use std::collections::HashMap;
use std::time::Duration;

use crate::larder_under_test::Larder;
use crate::real_origin::{HOST, RealOrigin};
use crate::strict::{Fault, Received};
use crate::tls_client::TlsClient;
use crate::tls_origin::Authority;
use crate::zoo::caller::{Caller, Dial, protocol};
use crate::zoo::cases::{self, Case, ETAG, Expect, MODIFIED, Version};
use crate::zoo::compare::{By, differences};
use crate::zoo::way::{Speaks, Way};

/// Longer than the route keeps anything.
const PAST_TTL: Duration = Duration::from_secs(61);

/// A request with its fields filled in, and what the origin said to it.
struct Asked {
    case: Case,
    fields: Vec<(&'static str, String)>,
    direct: Received,
    whole: Received,
    /// The origin's status for a client that has the response already.
    if_unchanged: Option<u16>,
}

/// What was found out.
pub struct Tally {
    pub exchanges: usize,
    pub differences: Vec<String>,
    pub holes: Vec<String>,
}

/// One origin, and all that is counted on the ways to it.
pub struct Ways<'a> {
    origin: &'a RealOrigin,
    authority: &'a Authority,
    speaks: Speaks,
    store: tempfile::TempDir,
    tally: Tally,
}

/// Goes all ways.
pub async fn gone(origin: &RealOrigin, authority: &Authority, speaks: Speaks) -> Tally {
    let tally = Tally { exchanges: 0, differences: Vec::new(), holes: Vec::new() };
    let store = tempfile::tempdir().expect("a directory");
    let mut ways = Ways { origin, authority, speaks, store, tally };
    let asked = ways.directly().await;
    let larder = ways.larder(Duration::ZERO).await;
    ways.all(&larder, &asked, &[Way::Miss, Way::Hit, Way::Passed]).await;
    ways.closed_when_idle(&larder, &asked).await;
    larder.server.stop().await;
    let larder = ways.larder(Duration::ZERO).await;
    ways.all(&larder, &asked, &[Way::Restarted]).await;
    larder.clock.advance(PAST_TTL);
    ways.all(&larder, &asked, &[Way::Revalidated, Way::HitAgain]).await;
    larder.server.stop().await;
    let larder = ways.larder(PAST_TTL).await;
    ways.all(&larder, &asked, &[Way::RestartedAgain]).await;
    larder.server.stop().await;
    ways.tally
}

impl Ways<'_> {
    fn direct(&self) -> Caller {
        let version = self.speaks.version();
        match self.speaks {
            Speaks::Plain => Caller::new(Dial::Origin(self.origin.plain), version),
            Speaks::Tls | Speaks::H2 => {
                Caller::of_tls_origin(self.origin.tls, self.authority, version)
            }
        }
    }

    /// Asks the origin for everything, twice. What it cannot send is a hole.
    async fn directly(&mut self) -> Vec<Asked> {
        let mut caller = self.direct();
        let mut wholes: HashMap<String, Received> = HashMap::new();
        let mut asked = Vec::new();
        let version = self.speaks.version();
        let cases = cases::all();
        for case in cases.into_iter().filter(|c| c.only.is_none_or(|only| only == version)) {
            if !wholes.contains_key(&case.path) && case.expect != Expect::Cut {
                let mut whole = self.once(&mut caller, "GET", &case.path, &plain(&case)).await;
                if whole.is_err() {
                    // Its connection may just have been closed, for it was idle.
                    caller = self.direct();
                    whole = self.once(&mut caller, "GET", &case.path, &plain(&case)).await;
                }
                let Ok(whole) = whole else {
                    self.tally.holes.push(case.name);
                    continue;
                };
                wholes.insert(case.path.clone(), whole);
            }
            let whole = wholes.get(&case.path);
            let fields = filled(&case, whole);
            let first = self.once(&mut caller, case.method, &case.path, &fields).await;
            let Some(direct) = first.ok().filter(|first| (case.shows)(first)) else {
                self.tally.holes.push(case.name);
                continue;
            };
            let whole = whole.unwrap_or(&direct).clone();
            let again = self.once(&mut caller, case.method, &case.path, &fields).await;
            let unsteady = differences(&case, &direct, &whole, &again, By::Origin);
            assert_eq!(unsteady, Vec::<String>::new(), "{}: not the same twice", case.name);
            let if_unchanged = self.if_unchanged(&mut caller, &case, &fields, &direct).await;
            asked.push(Asked { case, fields, direct, whole, if_unchanged });
        }
        asked
    }

    async fn if_unchanged(
        &mut self,
        caller: &mut Caller,
        case: &Case,
        fields: &[(&'static str, String)],
        direct: &Received,
    ) -> Option<u16> {
        let etag = direct.field("etag").filter(|_| case.expect == Expect::Stored)?;
        let mut fields = fields.to_vec();
        fields.push(("If-None-Match", etag.to_owned()));
        let answer = self.once(caller, case.method, &case.path, &fields).await;
        Some(answer.expect("a response").status)
    }

    async fn once(
        &mut self,
        caller: &mut Caller,
        method: &str,
        path: &str,
        fields: &[(&'static str, String)],
    ) -> Result<Received, Fault> {
        self.tally.exchanges += 1;
        caller.ask(method, path, fields).await
    }

    /// A larder on this store whose clock is so far ahead.
    async fn larder(&self, ahead: Duration) -> Larder {
        let store = self.store.path().display();
        let http2 = self.speaks == Speaks::H2;
        let (addr, tls) = match self.speaks {
            Speaks::Plain => (self.origin.plain, String::new()),
            Speaks::Tls | Speaks::H2 => {
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
            Speaks::Plain => Dial::Larder(larder.addr()),
            Speaks::Tls | Speaks::H2 => {
                Dial::LarderTls(Box::new(TlsClient::of(larder, &[protocol(version)])))
            }
        };
        Caller::new(dial, version)
    }

    async fn all(&mut self, larder: &Larder, asked: &[Asked], ways: &[Way]) {
        for version in self.speaks.clients() {
            let mut caller = self.through(larder, *version);
            for way in ways {
                for asked in asked {
                    let is_first = version == &self.speaks.version();
                    if way.is_gone(&asked.case, is_first) {
                        self.compared(&mut caller, asked, *way, *version).await;
                    }
                }
            }
        }
    }

    /// One request through larder, compared with what the origin said.
    async fn compared(&mut self, caller: &mut Caller, asked: &Asked, way: Way, version: Version) {
        let Asked { case, fields, direct, whole, .. } = asked;
        let path = way.path(case, version);
        let through = self.once(caller, case.method, &path, fields).await;
        let mut found = differences(case, direct, whole, &through, way.by(case));
        if let Ok(through) = &through
            && found.is_empty()
        {
            let said = through.cache_status();
            found.extend(way.contradicts(case, asked.if_unchanged, said));
        }
        if case.expect == Expect::Cut && way == Way::Hit {
            let mut fields = fields.clone();
            fields.push(("Cache-Control", "only-if-cached".into()));
            let kept = self.once(caller, case.method, &path, &fields).await;
            if !kept.as_ref().is_ok_and(|kept| kept.status == 504) {
                found.push("a cut body is stored".into());
            }
        }
        for found in found {
            let name = &case.name;
            self.tally.differences.push(format!("{name}, {way:?}, {version:?} client: {found}"));
        }
    }

    /// Connections that the origin closes while they are idle cost no request.
    async fn closed_when_idle(&mut self, larder: &Larder, asked: &[Asked]) {
        let mut direct = self.direct();
        let asked = asked.iter().find(|asked| asked.case.name == "sized-16384");
        let asked = asked.expect("every origin can send it");
        for round in 0..3 {
            self.idle(larder, asked, &format!("before-{round}")).await;
            // Its connection is younger than those of larder, which are closed before it.
            let last = self.once(&mut direct, "GET", &asked.case.path, &[]).await;
            if last.is_err() || !direct.is_closed_when_idle().await {
                self.tally.holes.push("idle-close".into());
                return;
            }
            self.idle(larder, asked, &format!("after-{round}")).await;
        }
    }

    /// One call of either kind.
    async fn idle(&mut self, larder: &Larder, asked: &Asked, name: &str) {
        let Asked { case, direct, whole, .. } = asked;
        let version = self.speaks.version();
        for route in ["kept", "passed"] {
            let mut caller = self.through(larder, version);
            let path = format!("{}?{route}=idle-{name}", case.path);
            let through = self.once(&mut caller, "GET", &path, &[]).await;
            for found in differences(case, direct, whole, &through, By::Origin) {
                self.tally.differences.push(format!("idle, {name}, {route}: {found}"));
            }
        }
    }
}

/// The fields of a request for all of a response.
fn plain(case: &Case) -> Vec<(&'static str, String)> {
    let coding = case.fields.iter().filter(|(name, _)| *name == "Accept-Encoding");
    coding.map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The fields of a request, with the validators of the response that its client has.
fn filled(case: &Case, whole: Option<&Received>) -> Vec<(&'static str, String)> {
    let validator = |name| whole.and_then(|w| w.field(name)).unwrap_or("\"none\"").to_owned();
    let value = |value: &str| match value {
        ETAG => validator("etag"),
        MODIFIED => validator("last-modified"),
        other => other.to_owned(),
    };
    case.fields.iter().map(|(name, text)| (*name, value(text))).collect()
}
