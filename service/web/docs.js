// The API's reference: Swagger UI over our own OpenAPI document.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  defaultModelsExpandDepth: 0, // the schemas, of which there are many, are folded
  validatorUrl: null, // else a service with a public address has its document checked by another host
});
