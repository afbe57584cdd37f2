//! Harmless request fields: the list of fields that do not change a response and are not part of the key.
//!
//! Owns: the list. In every scope but `shared`, a field that is *not* on it is part of the key, hashed. A
//! missing name costs hits; a wrong one could serve one user's response to another. So the list has the
//! fields that RFC 9110 and related RFCs define for the message itself, those that describe the client's
//! software, trace a request, or change with each call of an SDK. It has only whole names, because an origin
//! may define more fields of a family (`X-B3-…`, `Sec-CH-…`). Fields that `Vary` names count regardless.
//! Never touches: credentials, which are never harmless (`credential`).
//!
//! `baggage` and similar fields (`tracestate`, `correlation-context`, `jaeger-baggage`, `x-datadog-tags`)
//! carry values of the app, possibly `userId=`. They are on the list because they are for tracing and change
//! with each call: as part of the key they would prevent every hit. If an API responds according to one of
//! them, set `key: { headers: [baggage] }` on the route.

use std::sync::LazyLock;

use http::HeaderName;
use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, USER_AGENT};

use crate::semantics::field_case;

/// Whole names, sorted.
const NAMES: [&str; 203] = [
    // RFC 9110, 9111, 9112 and related RFCs, client hints, user agents, tracing, what SDKs change per call.
    // `Authorization`, `Cookie`, `From` and `Origin` are not among them.
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "amz-sdk-retry",
    "b3",
    "baggage",
    "cache-control",
    "cdn-loop",
    "cf-ray",
    "client-request-id",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "correlation-context",
    "date",
    "device-memory",
    "dnt",
    "downlink",
    "dpr",
    "eagleeye-rpcid",
    "eagleeye-traceid",
    "early-data",
    "ect",
    "elastic-apm-traceparent",
    "expect",
    "expires",
    "fly-request-id",
    "grpc-accept-encoding",
    "grpc-timeout",
    "grpc-trace-bin",
    "host",
    "http2-settings",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "jaeger-baggage",
    "jaeger-debug-id",
    "keep-alive",
    "l5d-ctx-deadline",
    "l5d-ctx-trace",
    "last-modified",
    "max-forwards",
    "newrelic",
    "ot-tracer-sampled",
    "ot-tracer-spanid",
    "ot-tracer-traceid",
    "pinpoint-flags",
    "pinpoint-pspanid",
    "pinpoint-sampled",
    "pinpoint-spanid",
    "pinpoint-traceid",
    "pragma",
    "priority",
    "proxy-authorization",
    "proxy-connection",
    "purpose",
    "range",
    "referer",
    "request-context",
    "request-id",
    "rtt",
    "save-data",
    "sec-ch-device-memory",
    "sec-ch-downlink",
    "sec-ch-dpr",
    "sec-ch-ect",
    "sec-ch-forced-colors",
    "sec-ch-prefers-color-scheme",
    "sec-ch-prefers-contrast",
    "sec-ch-prefers-reduced-data",
    "sec-ch-prefers-reduced-motion",
    "sec-ch-prefers-reduced-transparency",
    "sec-ch-rtt",
    "sec-ch-save-data",
    "sec-ch-ua",
    "sec-ch-ua-arch",
    "sec-ch-ua-bitness",
    "sec-ch-ua-form-factors",
    "sec-ch-ua-full-version",
    "sec-ch-ua-full-version-list",
    "sec-ch-ua-mobile",
    "sec-ch-ua-model",
    "sec-ch-ua-platform",
    "sec-ch-ua-platform-version",
    "sec-ch-ua-wow64",
    "sec-ch-viewport-height",
    "sec-ch-viewport-width",
    "sec-ch-width",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-storage-access",
    "sec-fetch-user",
    "sec-gpc",
    "sec-purpose",
    "sentry-trace",
    "singularityheader",
    "sw8",
    "sw8-correlation",
    "sw8-x",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "uber-trace-id",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "viewport-width",
    "width",
    "x-amz-user-agent",
    "x-amzn-requestid",
    "x-amzn-trace-id",
    "x-api-client",
    "x-appengine-request-log-id",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-client-request-id",
    "x-client-trace-id",
    "x-client-user-agent",
    "x-client-version",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-datadog-origin",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-tags",
    "x-datadog-trace-id",
    "x-device-user-agent",
    "x-dtc",
    "x-dynatrace",
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "x-github-request-id",
    "x-goog-api-client",
    "x-goog-gcs-idempotency-token",
    "x-goog-request-reason",
    "x-honeycomb-trace",
    "x-idempotency-key",
    "x-instana-l",
    "x-instana-s",
    "x-instana-t",
    "x-kong-request-id",
    "x-ms-client-request-id",
    "x-ms-request-id",
    "x-ms-return-client-request-id",
    "x-ms-useragent",
    "x-newrelic-id",
    "x-newrelic-transaction",
    "x-ot-span-context",
    "x-queue-start",
    "x-request-attempt",
    "x-request-id",
    "x-request-start",
    "x-requestid",
    "x-retry-attempt",
    "x-retry-count",
    "x-sdk-version",
    "x-sentry-trace",
    "x-span-id",
    "x-stainless-arch",
    "x-stainless-async",
    "x-stainless-custom-poll-interval",
    "x-stainless-helper",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-poll-helper",
    "x-stainless-raw-response",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-stream-helper",
    "x-stainless-timeout",
    "x-stripe-client-telemetry",
    "x-stripe-client-user-agent",
    "x-trace",
    "x-trace-id",
    "x-traceid",
    "x-tracelens",
    "x-transaction-id",
    "x-tt-logid",
    "x-user-agent",
    "x-vercel-id",
];

/// The names by length: the list is searched for each field of every request.
static BY_LENGTH: LazyLock<Vec<Vec<&'static [u8]>>> = LazyLock::new(|| {
    let longest = NAMES.iter().map(|name| name.len()).max().unwrap_or_default();
    let with_length = |length| NAMES.iter().filter(move |name| name.len() == length);
    (0..=longest).map(|length| with_length(length).map(|name| name.as_bytes()).collect()).collect()
});

/// Names of the list that nearly every request has.
const USUAL: [HeaderName; 4] = [ACCEPT, ACCEPT_ENCODING, USER_AGENT, ACCEPT_LANGUAGE];

/// Whether a field of this name is harmless.
pub(super) fn is_harmless(name: &HeaderName) -> bool {
    // These compare by number instead of text; most requests have no others.
    if USUAL.contains(name) {
        return true;
    }
    let name = name.as_str();
    let same_length = BY_LENGTH.get(name.len()).map(Vec::as_slice).unwrap_or_default();
    // Names of the same length mostly differ in their first or last byte: few are compared completely.
    let ends = |name: &[u8]| (name.first().copied(), name.last().copied());
    let wanted = ends(name.as_bytes());
    same_length.iter().any(|one| ends(one) == wanted && *one == name.as_bytes())
}

/// Fields by which the framework of an origin may select another host or path than the requested one. They
/// are part of the key in every scope; otherwise one client could poison the responses of all.
const REWRITES: [&str; 45] = [
    "cloudfront-forwarded-proto",
    "disguised-host",
    "forwarded",
    "front-end-https",
    "x-arr-ssl",
    "x-backend-host",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-forward-host",
    "x-forwarded-authority",
    "x-forwarded-base",
    "x-forwarded-context",
    "x-forwarded-request-uri",
    "x-forwarded-method",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-uri",
    "x-forwarded-url",
    "x-host",
    "x-http-host-override",
    "x-ingress-path",
    "x-middleware-rewrite",
    "x-ms-original-url",
    "x-original-forwarded-host",
    "x-original-host",
    "x-original-path",
    "x-original-request-uri",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-real-host",
    "x-replaced-path",
    "x-rewrite-uri",
    "x-rewrite-url",
    "x-scheme",
    "x-script-name",
    "x-url-scheme",
    "x-waws-unencoded-url",
];

/// Whether the field can select another resource.
pub(super) fn rewrites_the_target(name: &HeaderName) -> bool {
    field_case::names_one_of(name, &REWRITES)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::{NAMES, is_harmless, rewrites_the_target};

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes()).unwrap()
    }

    #[test]
    fn the_list_is_sorted() {
        for pair in NAMES.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
    }

    #[test]
    fn fields_that_identify_accounts_or_users_are_never_harmless() {
        for text in [
            "Authorization",
            "Cookie",
            "From",
            "Origin",
            "DPoP",
            "Stripe-Account",
            "OpenAI-Organization",
            "OpenAI-Project",
            "Sudo",
            "Harvest-Account-Id",
            "X-Account-Id",
            "X-Org-Id",
            "X-Scope-OrgID",
            "X-On-Behalf-Of",
            "X-Impersonate",
            "X-Customer",
            "X-Workspace",
            "X-Ms-Client-Principal",
            "X-Forwarded-Email",
            "X-Forwarded-For",
            "X-Client-Id",
            "X-Client-Cert",
            "X-Api-Version",
            "X-Requested-With",
            "X-Zanzibar",
            "X-Datadog-Api-Key",
            "X-Stainless-User-Token",
            "X-Stripe-Client-Account",
            "Sec-Ch-User",
            "X-B3-Api-Key",
            "X-B3-Account",
            "Sec-CH-Org",
            "Sec-Fetch-Account",
            "Ot-Tracer-Customer",
            "Amz-Sdk-Account",
        ] {
            assert!(!is_harmless(&name(text)), "{text}");
        }
    }

    #[test]
    fn fields_that_describe_message_client_or_call_are_harmless() {
        for text in [
            "Accept",
            "User-Agent",
            "Accept-Language",
            "traceparent",
            "X-Request-Id",
            "X-Amzn-Trace-Id",
            "Sec-Fetch-Mode",
            "Sec-Fetch-User",
            "Sec-CH-UA",
            "Referer",
            "X-B3-TraceId",
            "X-B3-Sampled",
            "Ot-Tracer-SpanId",
            "Sec-CH-UA-Full-Version-List",
            "Sec-CH-Prefers-Color-Scheme",
            "sentry-trace",
            "baggage",
            "Accept-Charset",
            "X-Stainless-Retry-Count",
            "amz-sdk-invocation-id",
            "X-Ms-Client-Request-Id",
            "X-Amz-User-Agent",
            "X-Stripe-Client-User-Agent",
            "Idempotency-Key",
            "Range",
            "If-None-Match",
            "Cache-Control",
        ] {
            assert!(is_harmless(&name(text)), "{text}");
        }
    }

    #[test]
    fn fields_that_rewrite_the_target_are_not_harmless() {
        for text in [
            "X-Forwarded-Host",
            "X-Original-URL",
            "X-Rewrite-URL",
            "Forwarded",
            "X_Forwarded_Host",
            "X-Forwarded-Protocol",
            "CloudFront-Forwarded-Proto",
        ] {
            assert!(rewrites_the_target(&name(text)) && !is_harmless(&name(text)), "{text}");
        }
    }
}
