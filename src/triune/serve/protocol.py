"""What crosses the wire between a reward client and a reward server, as JSON (never pickle).

The unit of work is a *batch of groups*: some samples, each with all its rollouts. The answer has one entry per group, in
order: either one verdict per rollout, in order and with the rollout's id, or a typed failure that says why this group
could not be judged. A failure of one group is never a failure of the others, and never a zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from triune.core.base import Frozen
from triune.core.sample import Check, EnvSpec, Frame, Media, Message, Picture, Sample, Text
from triune.core.schedule import Progress
from triune.core.verdict import Outcome, Verdict

VERSION = "1"
"""Of this protocol; the path of every endpoint starts with it: `/v1`."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:#-]{1,128}$")]
Pixels = Annotated[int, Field(ge=1, le=1 << 20)]


class MediaReference(Frozen):
    """A picture or video that was uploaded before (`PUT /v1/media/{sha256}`): the hash of its encoded bytes, its stored
    (width, height) in pixels, and for a message that shows it nothing else."""

    sha256: Sha256
    size: tuple[Pixels, Pixels]
    kind: Literal["image", "video"] = "image"


class SampleSpec(Frozen):
    """What judging needs of a sample; the fields mean what they mean in `triune.core.sample.Sample`. Its recorded
    `responses` stay where they are: no verifier reads them.

    `messages` may be left out: only verifiers that read the question look at them. `media` need be given only where a
    verifier looks at pixels (`wants_media`); sizes of pictures that a policy saw are in each outcome.
    """

    id: str = Field(min_length=1, max_length=1024)
    source: str = Field(min_length=1, max_length=1024)
    task: str = Field(min_length=1, max_length=1024)
    truth: JsonValue = None
    frame: Frame = "pixels_original"
    checks: tuple[Check, ...] = Field(min_length=1, max_length=64)
    normalize: bool = False
    meta: dict[str, JsonValue] = Field(default_factory=dict)
    media: tuple[MediaReference, ...] = Field(default=(), max_length=256)
    messages: tuple[Message, ...] = ()
    tools: tuple[str, ...] = ()
    env: EnvSpec | None = None
    expert: str | None = None

    @classmethod
    def of(cls, sample: Sample, *, media: bool = True) -> SampleSpec:
        """The wire form of a sample. `media` False leaves out pictures and videos, and where they stand in messages."""
        messages = sample.messages if media or not sample.media else tuple(map(_text_only, sample.messages))
        return cls.model_construct(
            id=sample.id,
            source=sample.source,
            task=sample.task,
            truth=sample.truth,
            frame=sample.frame,
            checks=sample.checks,
            normalize=sample.normalize,
            meta=sample.meta,
            media=tuple(
                MediaReference.model_construct(sha256=m.sha256, size=m.size, kind=m.kind)
                for m in sample.media
                if media
            ),
            messages=messages,
            tools=sample.tools,
            env=sample.env,
            expert=sample.expert,
        )

    def sample(self, stored: Mapping[str, str]) -> Sample:
        """The sample, with media at the paths where they are `stored` by hash. Raises ValueError (pydantic's) for what
        no sample may be: two checks of one name, a gate that is not there, pictures that messages do not show."""
        messages = self.messages
        if not messages:
            shown = tuple(Picture(type=m.kind, media=n) for n, m in enumerate(self.media))
            messages = (Message(role="user", content=shown or (Text(text=""),)),)
        media = tuple(
            Media(kind=m.kind, uri=stored[m.sha256], sha256=m.sha256, size=m.size) for m in self.media
        )
        return Sample(
            id=self.id,
            source=self.source,
            task=self.task,
            messages=messages,
            media=media,
            truth=self.truth,
            frame=self.frame,
            checks=self.checks,
            normalize=self.normalize,
            tools=self.tools,
            env=self.env,
            expert=self.expert,
            meta=self.meta,
        )


def _text_only(message: Message) -> Message:
    return message.model_copy(update={"content": tuple(b for b in message.content if isinstance(b, Text))})


class Group(Frozen):
    """One sample and all its rollouts. Ids of rollouts are unique in a group."""

    sample: SampleSpec
    outcomes: tuple[Outcome, ...] = Field(min_length=1)


class VerifyRequest(Frozen):
    """Body of `POST /v1/verify`.

    `id` names the work: the same id with the same body again (a retry, a hedge) joins the running work or gets the
    answer that was given; with another body it is refused (409).
    """

    id: RequestId
    progress: Progress
    groups: tuple[Group, ...] = Field(min_length=1)


FailureCode = Literal["unknown_verifier", "forbidden", "invalid_group", "unavailable", "error"]
"""Why a group has no verdicts. `unknown_verifier`, `forbidden` (not on this server's allow-list) and `invalid_group` are
the sender's to mend and will be answered alike again; `unavailable` (the server is going down) may be tried elsewhere;
`error` is a defect of the server, and says which."""


class Failure(Frozen):
    code: FailureCode
    message: str


class GroupAnswer(Frozen):
    """Of one group: `verdicts`, one per rollout in order, or a `failure` and no verdicts."""

    sample: str
    verdicts: tuple[Verdict, ...] = ()
    failure: Failure | None = None


class VerifyResponse(Frozen):
    """Answer of `POST /v1/verify`: the groups in the order of the request."""

    id: str
    groups: tuple[GroupAnswer, ...]


class CheckRequest(Frozen):
    """Body of `POST /v1/check`: could these samples be judged here? Their checks are routed and their truths prepared."""

    samples: tuple[SampleSpec, ...] = Field(min_length=1, max_length=4096)


class CheckResponse(Frozen):
    """`problem` names the first sample that could not be judged, and why; None: all could."""

    problem: str | None = None


ErrorCode = Literal[
    "bad_request", "unauthorized", "forbidden", "not_found", "method_not_allowed", "conflict", "missing_media",
    "too_large", "unsupported_media_type", "invalid", "unjudged", "queue_full", "internal", "draining", "unavailable", "timeout",
]  # fmt: skip


class Problem(Frozen):
    """Body of every answer that is not 2xx. `missing` lists hashes of media to upload (`missing_media`)."""

    code: ErrorCode
    message: str
    missing: tuple[str, ...] = ()


class Limits(Frozen):
    """What one request may hold; above it the answer is 413."""

    max_body_bytes: int = Field(
        64 << 20, ge=1024, description="of a request's body; media have their own limit"
    )
    max_groups: int = Field(4096, ge=1, description="in one request")
    max_rollouts: int = Field(16384, ge=1, description="in one request")
    max_characters: int = Field(4_000_000, ge=1, description="of one rollout's text")
    max_media_bytes: int = Field(64 << 20, ge=1, description="of one picture or video")


class VerifierCase(Frozen):
    """An example of a verifier: what it is given, and its value and status. Of a group verifier text, value and status
    are lists, one entry per rollout; of a batch verifier lists of such."""

    text: JsonValue
    truth: JsonValue
    params: dict[str, JsonValue]
    value: JsonValue
    status: JsonValue


class VerifierInfo(Frozen):
    """One verifier that a server offers. `params` is the JSON schema of its parameters; `kind` is what it sees at once;
    a rollout has its `deadline` in seconds; a value of at least `threshold` is 'correct'; null `limits` are none."""

    name: str
    version: str
    kind: Literal["rollout", "group", "batch"]
    summary: str
    threshold: float
    limits: tuple[float | None, float | None]
    slow: bool
    deadline: float
    wants_media: bool
    params: dict[str, JsonValue]
    cases: tuple[VerifierCase, ...]


class ServerInfo(Frozen):
    """Answer of `GET /v1/verifiers`."""

    protocol: str
    triune: str
    limits: Limits
    verifiers: tuple[VerifierInfo, ...]


class MediaStored(Frozen):
    """Answer of `PUT /v1/media/{sha256}`."""

    sha256: str
    size_bytes: int
    created: bool


class Health(Frozen):
    """Answer of `/healthz` and `/readyz`; `reason` says why a server is not ready."""

    status: Literal["alive", "ready", "not_ready"]
    reason: str = ""
