//! Host names without an address, and name servers that fail or do not respond (UPS-09).

use std::net::IpAddr;
use std::time::Duration;

use larder::server::ServerDeps;
use larder::upstream::connect::descriptors;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::concurrent::bounded;
use crate::dns::{Dns, DnsReply};
use crate::larder_under_test::Larder;
use crate::origin::{MockResponse, Origin};

const ROUTES: &str = "routes: [{ name: all, match: { host: \"*\" }, ttl: 1h }]\n";

async fn larder(dns: &Dns) -> Larder {
    let parts = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    Larder::with_deps(ROUTES, parts).await
}

fn loopback() -> DnsReply {
    DnsReply::Addresses(vec![IpAddr::from([127, 0, 0, 1])])
}

/// The status of a GET of `url`; an error must have the class `dns`.
async fn get(larder: &Larder, url: &str) -> u16 {
    let answer = larder.client().await.get(url, &[]).await;
    assert!(answer.status == 200 || answer.text().contains("\"dns\""), "{}", answer.text());
    answer.status
}

/// The number of queries for `name`.
fn queries(dns: &Dns, name: &str) -> usize {
    dns.queried_names().iter().filter(|query| *query == name).count()
}

#[tokio::test]
async fn ups_09_a_name_that_does_not_exist_is_a_502_and_is_cached() {
    bounded(async {
        let dns = Dns::with_replies(|_, _| DnsReply::Addresses(Vec::new())).await;
        let larder = larder(&dns).await;
        for n in 0..5 {
            assert_eq!(get(&larder, &format!("http://nowhere.test/{n}")).await, 502);
        }
        assert_eq!(queries(&dns, "nowhere.test"), 1);
    })
    .await;
}

#[tokio::test]
async fn ups_09_a_failure_of_a_name_server_is_cached_for_a_second() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let dns =
            Dns::with_replies(|name, _| if name == "good.test" { loopback() } else { DnsReply::Failure })
                .await;
        let larder = larder(&dns).await;
        assert_eq!(get(&larder, "http://failing.test/").await, 502);
        let before = queries(&dns, "failing.test");
        assert!(before >= 1);
        for n in 0..5 {
            assert_eq!(get(&larder, &format!("http://failing.test/{n}")).await, 502);
        }
        assert_eq!(queries(&dns, "failing.test"), before, "the failure is cached");
        let good = format!("http://good.test:{}/", origin.addr.port());
        assert_eq!(get(&larder, &good).await, 200);
        larder.clock.advance(Duration::from_secs(1));
        assert_eq!(get(&larder, "http://failing.test/").await, 502);
        assert!(queries(&dns, "failing.test") > before, "for one second only");
    })
    .await;
}

/// The test takes four seconds: the deadline for the name server.
#[tokio::test]
async fn ups_09_all_requests_to_one_name_share_one_lookup() {
    bounded(async {
        let dns = Dns::with_replies(|_, _| DnsReply::NoReply).await;
        let larder = larder(&dns).await;
        let mut requests = JoinSet::new();
        for n in 0..50 {
            let mut client = larder.client().await;
            let url = format!("http://silent.test/{n}");
            requests.spawn(async move { client.get(&url, &[]).await.status });
        }
        while let Some(status) = requests.join_next().await {
            assert_eq!(status.unwrap(), 502);
        }
        // One lookup sends its query several times; fifty lookups would send hundreds of queries.
        assert!(queries(&dns, "silent.test") < 10, "{:?}", dns.queried_names());
    })
    .await;
}

/// While lookups of failing names are pending, larder resolves both a name that it has resolved before and
/// new names.
#[tokio::test]
async fn ups_09_a_thousand_failing_names_do_not_delay_a_good_one() {
    const BAD: usize = 1000;
    // This process holds both ends of every connection.
    descriptors::raise_limit(3 * BAD);
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "ok")).await;
        let dns = Dns::with_replies(
            |name, _| {
                if name.starts_with("good") { loopback() } else { DnsReply::NoReply }
            },
        );
        let dns = dns.await;
        let larder = larder(&dns).await;
        let good = |name: &str| format!("http://good-{name}.test:{}/", origin.addr.port());
        assert_eq!(get(&larder, &good("old")).await, 200);
        let mut requests = JoinSet::new();
        for n in 0..BAD {
            let addr = larder.addr();
            requests.spawn(async move {
                let mut client = Client::connect(addr).await;
                client.get(&format!("http://bad-{n}.test/"), &[]).await.status
            });
        }
        while dns.queried_names().len() < BAD {
            tokio::task::yield_now().await;
        }
        for n in 0..10 {
            assert_eq!(get(&larder, &format!("{}{n}", good("old"))).await, 200);
            assert_eq!(get(&larder, &good(&format!("new-{n}"))).await, 200);
        }
        assert!(requests.try_join_next().is_none(), "the lookups of the failing names are still pending");
        while let Some(status) = requests.join_next().await {
            assert_eq!(status.unwrap(), 502);
        }
    })
    .await;
}
