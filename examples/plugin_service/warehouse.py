"""Somebody else's service, in a process of its own: plain FastAPI, which knows nothing of plugins.

Run it: ``python warehouse.py PORT``.
"""

import sys
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Form, Header, HTTPException, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

app = FastAPI(openapi_url="/api/v1/openapi.json")


class Delivery(BaseModel):
    item: str
    amount: int


@app.get("/api/v1/stock/{item}")
async def stock(item: str, unit: str = "piece", authorization: Annotated[str, Header()] = "") -> dict[str, str | int]:
    if item == "unicorn":
        raise HTTPException(404, "none of those")
    return {"item": item, "amount": len(item), "unit": unit, "key": authorization}


@app.post("/api/v1/stock/deliver")
async def deliver(delivery: Delivery) -> Delivery:
    return Delivery(item=delivery.item, amount=delivery.amount + 1)


@app.post("/api/v1/stock/note")
async def note(text: Annotated[str, Form()], file: Annotated[UploadFile, File()]) -> dict[str, str | int]:
    return {"text": text, "name": file.filename or "", "bytes": len(await file.read())}


@app.get("/api/v1/stock/log/events")
async def events() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.get("/api/v1/private")
async def private() -> str:
    return "not published"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
