//! A pass-through that failed: what the client is told.
//!
//! Owns: larder's own answer in the place of one that did not come. Never touches: retrying.

use http::Method;

use crate::account::problem::Problem;
use crate::account::{Refusal, ResultKind};
use crate::front::session::{ClientError, Length, Session};
use crate::proxy::exchange::{Broken, Ctx};
use crate::proxy::handler::{End, Handler};
use crate::semantics::asked::Asked;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::spelling::Spelling;
use crate::upstream::failure::Failure;

const BAD_BODY: Problem = Problem::new(
    http::StatusCode::BAD_REQUEST,
    "malformed_body",
    "the request body is not framed as its head says",
    "http_request_error",
);

impl Handler {
    /// There is no answer, and there will be none.
    pub(super) async fn failed(
        &self,
        asked: &Asked,
        client: &mut Session,
        ctx: &mut Ctx,
        failure: Failure,
    ) -> Result<End, Broken> {
        if let Failure::Denied(why) = failure {
            self.account.denied(why.token());
        }
        let status = failure.told(ctx.why.token());
        self.tell(asked, client, ctx, &failure.problem(), &status).await?;
        Ok(End::Answered)
    }

    /// The client's own side broke before there was an answer: told, if it still can be.
    pub(super) async fn broken_by_client(
        &self,
        asked: &Asked,
        client: &mut Session,
        ctx: &mut Ctx,
        error: ClientError,
    ) -> Broken {
        if error == ClientError::Malformed && client.status().is_none() {
            self.account.refused(&Refusal { class: BAD_BODY.class, client: asked.client });
            let status = CacheStatus::forwarded(ctx.why.token());
            // Who does not take it has made its mistake all the same.
            let _told = self.tell(asked, client, ctx, &BAD_BODY, &status).await;
        }
        Broken::Client(error)
    }

    async fn tell(
        &self,
        asked: &Asked,
        client: &mut Session,
        ctx: &mut Ctx,
        problem: &Problem,
        status: &CacheStatus,
    ) -> Result<(), ClientError> {
        ctx.result = ResultKind::Error;
        ctx.error = Some(problem.class);
        let (mut headers, body) = problem.response();
        status.append_to(&mut headers);
        client.skip_body();
        client.close_after();
        self.finish_head(client, ctx, &mut headers);
        let empty = asked.method == Method::HEAD;
        let length = if empty { Length::None } else { Length::Known(body.len() as u64) };
        client.write_head(problem.status, headers, length, &Spelling::default()).await?;
        if !empty {
            client.write_body(body).await?;
        }
        client.end(None).await
    }
}
