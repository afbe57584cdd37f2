//! Names that have no address, and name servers that fail or are silent (UPS-09).

use std::net::IpAddr;
use std::time::Duration;

use larder::server::ServerDeps;
use larder::upstream::descriptors;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::crowd::bounded;
use crate::dns::{Dns, Said};
use crate::larder_under_test::Larder;
use crate::origin::{Answer, Origin};

const ROUTES: &str = "routes: [{ name: all, match: { host: \"*\" }, ttl: 1h }]\n";

async fn larder(dns: &Dns) -> Larder {
    let parts = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
    Larder::with_parts(ROUTES, parts).await
}

fn here() -> Said {
    Said::Addresses(vec![IpAddr::from([127, 0, 0, 1])])
}

/// What a GET of `url` comes to, and the class of larder's own error.
async fn get(larder: &Larder, url: &str) -> u16 {
    let answer = larder.client().await.get(url, &[]).await;
    assert!(answer.status == 200 || answer.text().contains("\"dns\""), "{}", answer.text());
    answer.status
}

fn times(dns: &Dns, name: &str) -> usize {
    dns.asked().iter().filter(|asked| *asked == name).count()
}

#[tokio::test]
async fn ups_09_a_name_that_does_not_exist_is_a_502_and_is_not_asked_for_again() {
    bounded(async {
        let dns = Dns::saying(|_, _| Said::Addresses(Vec::new())).await;
        let larder = larder(&dns).await;
        for n in 0..5 {
            assert_eq!(get(&larder, &format!("http://nowhere.test/{n}")).await, 502);
        }
        assert_eq!(times(&dns, "nowhere.test"), 1);
    })
    .await;
}

#[tokio::test]
async fn ups_09_a_name_server_that_fails_is_not_asked_again_for_a_second() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let dns =
            Dns::saying(|name, _| if name == "good.test" { here() } else { Said::Failure }).await;
        let larder = larder(&dns).await;
        assert_eq!(get(&larder, "http://failing.test/").await, 502);
        let asked = times(&dns, "failing.test");
        assert!(asked >= 1);
        for n in 0..5 {
            assert_eq!(get(&larder, &format!("http://failing.test/{n}")).await, 502);
        }
        assert_eq!(times(&dns, "failing.test"), asked, "the failure is remembered");
        let good = format!("http://good.test:{}/", origin.addr.port());
        assert_eq!(get(&larder, &good).await, 200);
        larder.clock.advance(Duration::from_secs(1));
        assert_eq!(get(&larder, "http://failing.test/").await, 502);
        assert!(times(&dns, "failing.test") > asked, "not for long");
    })
    .await;
}

/// It takes four seconds: the deadline is the name server's.
#[tokio::test]
async fn ups_09_those_who_wait_for_a_silent_name_server_wait_for_one_look_up() {
    bounded(async {
        let dns = Dns::saying(|_, _| Said::Nothing).await;
        let larder = larder(&dns).await;
        let mut asking = JoinSet::new();
        for n in 0..50 {
            let mut client = larder.client().await;
            let url = format!("http://silent.test/{n}");
            asking.spawn(async move { client.get(&url, &[]).await.status });
        }
        while let Some(status) = asking.join_next().await {
            assert_eq!(status.unwrap(), 502);
        }
        // One look-up says its question several times; fifty would say it hundreds of times.
        assert!(times(&dns, "silent.test") < 10, "{:?}", dns.asked());
    })
    .await;
}

/// The good ones are asked for while the bad ones are waited for: one that has been asked for before,
/// and one that has not.
#[tokio::test]
async fn ups_09_a_thousand_bad_names_at_once_keep_no_good_one_waiting() {
    const BAD: usize = 1000;
    // Both ends of every connection are in this process.
    descriptors::raise(3 * BAD);
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], "ok")).await;
        let dns =
            Dns::saying(|name, _| if name.starts_with("good") { here() } else { Said::Nothing });
        let dns = dns.await;
        let larder = larder(&dns).await;
        let good = |name: &str| format!("http://good-{name}.test:{}/", origin.addr.port());
        assert_eq!(get(&larder, &good("old")).await, 200);
        let mut asking = JoinSet::new();
        for n in 0..BAD {
            let addr = larder.addr();
            asking.spawn(async move {
                let mut client = Client::connect(addr).await;
                client.get(&format!("http://bad-{n}.test/"), &[]).await.status
            });
        }
        while dns.asked().len() < BAD {
            tokio::task::yield_now().await;
        }
        for n in 0..10 {
            assert_eq!(get(&larder, &format!("{}{n}", good("old"))).await, 200);
            assert_eq!(get(&larder, &good(&format!("new-{n}"))).await, 200);
        }
        assert!(asking.try_join_next().is_none(), "the bad ones are still waited for");
        while let Some(status) = asking.join_next().await {
            assert_eq!(status.unwrap(), 502);
        }
    })
    .await;
}
