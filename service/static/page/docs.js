"use strict";

const place = document.getElementById("swagger");
// No validator: it is a foreign host.
SwaggerUIBundle({ url: place.dataset.document, domNode: place, deepLinking: true, validatorUrl: null });
