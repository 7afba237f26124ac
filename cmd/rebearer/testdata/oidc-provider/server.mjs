// A certified authorization server (panva/oidc-provider) with opaque tokens and
// nothing on disk: a restart voids every token and changes the keys.
//
//   PORT=8080 node --input-type=module < server.mjs
//
// in a folder whose node_modules has oidc-provider.
import { Provider } from 'oidc-provider';
import { generateKeyPair, exportJWK, calculateJwkThumbprint } from 'jose';

const issuer = `http://127.0.0.1:${process.env.PORT}`;

const { privateKey } = await generateKeyPair('RS256', { extractable: true });
const key = { ...(await exportJWK(privateKey)), use: 'sig', alg: 'RS256' };
key.kid = await calculateJwkThumbprint(key);

const client = (client_id, client_secret) => ({
  client_id,
  client_secret,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  token_endpoint_auth_method: 'client_secret_basic',
});

const provider = new Provider(issuer, {
  clients: [client('gateway', 'gateway-secret'), client('api', 'api-secret')],
  jwks: { keys: [key] },
  ttl: { ClientCredentials: 3600 },
  clientAuthMethods: ['client_secret_basic'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: async () => true },
  },
});

provider.listen(Number(process.env.PORT), '127.0.0.1');
