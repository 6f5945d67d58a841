"""One set of AWS credentials in one region: every request to SQS passes here. The only module that knows the client
library, which takes more than half a second to load and is loaded at the first request."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from studio_runner.errors import BrokerError
from studio_runner.queues.sqs.faults import Answer, fault_of
from studio_runner.queues.sqs.options import SqsOptions
from studio_runner.queues.sqs.profiles import Profile

CONNECTIONS = 160
"""More than all long polls together, so that renewals never queue behind them."""
ANY_REGION = "us-east-1"
"""For services of which nobody said that they had regions."""
SHOWN = 4
"""Characters of an access key that may be shown."""


class Account:
    """To be closed with `close`."""

    def __init__(self, options: SqsOptions, profile: Profile | None = None) -> None:
        self._options, self._profile = options, profile
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: Any = None
        self._where = options.endpoint or "SQS"

    def __str__(self) -> str:
        return self._where

    async def close(self) -> None:
        await self._stack.aclose()
        self._client = None

    async def call(self, operation: str, doing: str, **parameters: object) -> dict[str, Any]:
        """One request by its Python name; `doing` is the phrase for errors. BrokerError in one of its kinds."""
        from botocore import exceptions as aws  # noqa: PLC0415

        client = await self._opened()
        try:
            answer: dict[str, Any] = await getattr(client, operation)(**parameters)
        except aws.ClientError as error:
            raise fault_of(_answer(error.response), doing, self._where) from error
        except (aws.BotoCoreError, aws.HTTPClientError, OSError) as error:
            raise self._unreached(error, doing) from error
        return answer

    async def pages(self, operation: str, doing: str, **parameters: object) -> AsyncIterator[dict[str, Any]]:
        """All pages of a listing."""
        token: dict[str, object] = {}
        while True:
            page = await self.call(operation, doing, **parameters, **token)
            yield page
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                self._client = await self._open()
        return self._client

    async def _open(self) -> Any:
        from aiobotocore.config import AioConfig  # noqa: PLC0415
        from botocore import exceptions as aws  # noqa: PLC0415

        config = AioConfig(
            connect_timeout=5,
            read_timeout=self._options.wait + 10,
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=CONNECTIONS,
            user_agent_extra="studio-runner",
        )
        try:
            session = self._session()
            region = self._region(session)
            self._where = self._options.endpoint or f"SQS in {region}"
            credentials = await session.get_credentials()
            if credentials is None:
                raise BrokerError(f"no AWS credentials for {self._where}", hint=_NO_CREDENTIALS)
            shown = (await credentials.get_frozen_credentials()).access_key[:SHOWN]
            self._where += f" (access key {shown}...)"
            endpoint = self._options.endpoint or None
            made = session.create_client("sqs", region_name=region, endpoint_url=endpoint, config=config)
            return await self._stack.enter_async_context(made)
        except (aws.BotoCoreError, OSError, ValueError) as error:
            raise self._unreached(error, "opening the client") from error

    def _session(self) -> Any:
        from aiobotocore.session import AioSession  # noqa: PLC0415

        if self._profile is None:
            return AioSession()
        session = AioSession(profile=self._profile.name)
        session.set_config_variable("credentials_file", str(self._profile.credentials))
        session.set_config_variable("config_file", str(self._profile.config))
        return session

    def _region(self, session: Any) -> str:
        if self._profile is not None:
            return self._profile.region
        region = self._options.region or session.get_config_variable("region")
        if not region and not self._options.endpoint:
            raise BrokerError("no AWS region is set for SQS", hint="set --sqs-region, or AWS_DEFAULT_REGION")
        return str(region or ANY_REGION)

    def _unreached(self, error: Exception, doing: str) -> BrokerError:
        """What the client library's own errors mean."""
        from botocore import exceptions as aws  # noqa: PLC0415

        said = f"{doing} at {self._where}"
        if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.ProfileNotFound):
            return BrokerError(f"{said}: there are no usable AWS credentials", hint=_NO_CREDENTIALS)
        if isinstance(error, aws.CredentialRetrievalError):
            return BrokerError(f"{said}: the AWS credentials could not be fetched", hint=_NO_CREDENTIALS)
        if isinstance(error, aws.InvalidRegionError):
            return BrokerError(f"{said}: that is no AWS region", hint="check --sqs-region")
        if _is_name_failure(error):
            hint = (
                "check the name server, and that the region exists"
                if not self._options.endpoint
                else "check its name"
            )
            return BrokerError(f"{said}: the name of the service has no address", hint=hint)
        return BrokerError(f"{said}: no answer ({type(error).__name__})", hint="check the network and the endpoint")


_NO_CREDENTIALS = "give a directory with --sqs-certs, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def _is_name_failure(error: BaseException | None) -> bool:
    """Whether a name that could not be looked up is behind it."""
    seen = 0
    while error is not None and seen < 8:
        if type(error).__name__ in {"gaierror", "ClientConnectorDNSError"}:
            return True
        inner = getattr(error, "kwargs", {}).get("error") if hasattr(error, "kwargs") else None
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
        seen += 1
    return False


def _answer(response: Mapping[str, Any]) -> Answer:
    said = response.get("Error", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return Answer(str(said.get("Code", "")), str(said.get("Message", "")), _skew(headers.get("date", "")))


def _skew(date: str) -> float:
    """By how much this machine's clock is ahead, as far as the answer's date tells."""
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
